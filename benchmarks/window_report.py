"""From the results of `window.py` to Markdown: its tables, and docs/window.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from engine_figures import FORBIDDEN, MET, NOT_MET, Value, median, name_of, of, over, values
from engine_report import conditions, rounds_of, table
from engine_results import OURS, Results, Round
from measuring import spread
from window_runs import DISK, LAYERS, PEER, Cell

GOAL, SHARE_GOAL = 5.0, 0.85  # times the peer's tokens/s; of the floor
PUBLISHED = "llama-2-70b"  # TPI-LLM (arXiv 2410.00531, table 1) has it on 8 devices, in float32
PUBLISHED_S, PUBLISHED_GIB = 26.1, 3.1
MIB = 1 << 20


def told(one: Round) -> str:
    """A round in a few words."""
    parts = []
    for name, run in sorted(one.runs.items()):
        if run.get("killed"):
            parts.append(f"{name} KILLED")
        elif "decode_tokens_per_s" in run:
            parts.append(f"{name} {1 / run['decode_tokens_per_s']:.2f} s/token")
        elif "prefill_tokens_per_s" in run:
            parts.append(f"{name} {run['prefill_tokens_per_s']:.1f} tokens/s")
        else:
            parts.append(f"{name} {run['gb_per_s']:.2f} GB/s")
    return "; ".join(parts) + ("" if one.quiet else f"  NOT QUIET: others took {one.others:.0%}")


def seconds(who: str) -> Value:
    """Seconds a decoded token."""
    rate = of(who, "decode_tokens_per_s")

    def figure(one: Round) -> float | None:
        found = rate(one)
        return None if found is None else 1 / found

    return figure


def read_bytes(one: Round) -> float | None:
    """What ours has to read for a token: of a mixture what it did read, for that follows from what the router chose."""
    run = one.runs.get(OURS, {})
    if "streamed" not in run:
        return None
    return float(run["read_bytes"] / run["n_decoded"] if run.get("mixture") else run["streamed"])


def floor(one: Round) -> float | None:
    """Seconds a token that no engine can pass which keeps as much as ours: what is not kept, at the disk's rate."""
    rate, n_bytes = of(DISK, "gb_per_s")(one), read_bytes(one)
    return n_bytes / rate / 1e9 if rate and n_bytes else None  # None also where all is kept


def shown(rounds: Sequence[Round], value: Value, digits: int) -> str:
    """Median and spread of a figure; "-" where there is none."""
    found = values(rounds, value)
    return spread(found, digits) if found else "-"


def figure(rounds: Sequence[Round], who: str, value: Value, digits: int) -> str:
    """The same of a contender that may have been killed."""
    found = [each.runs.get(who, {}) for each in rounds]
    return "killed" if any(run.get("killed") for run in found) else shown(rounds, value, digits)


def cells_of(results: Results, prompts: bool) -> list[Cell]:
    """Those that decode, or have prompts: files in their order, larger limits first."""
    order = list(results.files)
    cells = [cell for cell in results.attempts if bool(cell.prompt) == prompts]
    return sorted(cells, key=lambda cell: (order.index(cell.file), -cell.limit_bytes, cell.threads, cell.decode))


def case_of(results: Results, cell: Cell) -> str:
    """File and limit."""
    file = results.files[cell.file]
    return f"{name_of(file)} ({file.n_bytes / 2**30:.2f} GiB) in {size(cell.limit_bytes)}"


def size(n_bytes: float) -> str:
    """In MiB, or in GiB from one on."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / MIB:.0f} MiB"


def compared(rounds: Sequence[Round], peer: str) -> str:
    """Ours over a peer, in tokens/s; beside llama.cpp, whether the goal is met, or could be."""
    ratios = values(rounds, over(seconds(peer), seconds(OURS)))
    if not ratios:
        return "-"
    text = spread(ratios, 2)
    if peer != PEER:
        return text
    if round(statistics.median(ratios), 2) >= GOAL:
        return text + MET
    possible = median(values(rounds, over(seconds(peer), floor)))
    return text + (FORBIDDEN if possible is not None and possible < GOAL else NOT_MET)


def decode_table(results: Results, cells: Sequence[Cell]) -> list[str]:
    """Seconds a token, ratios, and the floor."""
    head = ["model, limit", "Ingle, s/token", f"{PEER}, s/token", f"times as fast (goal {GOAL:g})"]
    head += [f"{LAYERS}, s/token", "times as fast", "floor, s/token", f"floor / ours (goal {SHARE_GOAL:.0%})"]
    rows = []
    for cell in cells:
        rounds = results.rounds(cell)
        quiet = "" if all(each.quiet for each in rounds) else ", NOT QUIET"
        row = [case_of(results, cell), figure(rounds, OURS, seconds(OURS), 2) + quiet]
        for peer in (PEER, LAYERS):
            row += [figure(rounds, peer, seconds(peer), 2), compared(rounds, peer)]
        shares = [100 * share for share in values(rounds, over(floor, seconds(OURS)))]
        end = "" if not shares else MET if round(statistics.median(shares)) >= 100 * SHARE_GOAL else NOT_MET
        rows.append([*row, shown(rounds, floor, 2), (spread(shares, 0) + "%" if shares else "-") + end])
    return table(head, rows)


def memory_table(results: Results, cells: Sequence[Cell]) -> list[str]:
    """What is kept and what is read; where the time went; the peaks."""
    head = ["model, limit", "kept, MiB", "ring, MiB", "read for a token, MiB", "disk, GB/s", "waited for the disk"]
    head += ["peak of the process, MiB", "with files and kernel, MiB", f"{PEER}, process, MiB", "with files, MiB"]
    rows = []
    for cell in cells:
        rounds = results.rounds(cell)
        row = [case_of(results, cell)]
        row += [shown(rounds, of(OURS, key, MIB), 0) for key in ("pinned", "ring")]
        row += [shown(rounds, lambda one: None if (n := read_bytes(one)) is None else n / MIB, 0)]
        row.append(shown(rounds, of(DISK, "gb_per_s"), 2))
        waits = [100 * share for share in values(rounds, over(of(OURS, "waited_s"), of(OURS, "took_s")))]
        row.append(spread(waits, 0) + "%" if waits else "-")
        for who in (OURS, PEER):
            row += [shown(rounds, of(who, f"{whose}peak_bytes", MIB), 0) for whose in ("", "group_")]
        rows.append(row)
    return table(head, rows)


def prompt_table(results: Results, cells: Sequence[Cell]) -> list[str]:
    """Prompts: tokens/s."""
    head = ["model, limit", "tokens of the prompt", "Ingle, tokens/s", PEER, "times as fast", LAYERS, "times as fast"]
    rows = []
    for cell in cells:
        rounds = results.rounds(cell)
        rate = {who: of(who, "prefill_tokens_per_s") for who in (OURS, PEER, LAYERS)}
        row = [case_of(results, cell), str(cell.prompt), figure(rounds, OURS, rate[OURS], 1)]
        for peer in (PEER, LAYERS):
            row += [figure(rounds, peer, rate[peer], 1), shown(rounds, over(rate[OURS], rate[peer]), 2)]
        rows.append(row)
    return table(head, rows)


def forbidden(results: Results, cell: Cell) -> str | None:
    """The arithmetic, where the goal is above what the disk allows any engine that keeps as much."""
    rounds = results.rounds(cell)
    possible = median(values(rounds, over(seconds(PEER), floor)))
    if possible is None or possible >= GOAL:
        return None
    n_bytes, rate = (statistics.median(values(rounds, each)) for each in (read_bytes, of(DISK, "gb_per_s")))
    theirs, least = (statistics.median(values(rounds, each)) for each in (seconds(PEER), floor))
    return (
        f"{case_of(results, cell)}: {n_bytes / 1e6:.0f} MB that are not kept / {rate:.2f} GB/s = {least:.2f} s/token; "
        f"{PEER} has {theirs:.2f}, so none can be more than {possible:.2f} times as fast. The goal is {GOAL:g}."
    )


def published(results: Results, cells: Sequence[Cell]) -> list[str]:
    """What was published of the 70B shape, beside ours."""
    for cell in cells:
        rounds = results.rounds(cell)
        ours, peak = (median(values(rounds, each)) for each in (seconds(OURS), of(OURS, "peak_bytes", 2**30)))
        if results.files[cell.file].shape == PUBLISHED and ours is not None and peak is not None:
            ends = [MET if ours < PUBLISHED_S else NOT_MET, MET if round(peak, 2) <= PUBLISHED_GIB else NOT_MET]
            return [
                f"TPI-LLM has Llama-2-70B in float32 on 8 devices at {PUBLISHED_S} s/token and {PUBLISHED_GIB} GB on "
                "each (arXiv 2410.00531, table 1; emulated on two servers). Ours, in 4 bits, on this one device: "
                f"{ours:.1f} s/token{ends[0]}, with a peak of {peak:.2f} GiB{ends[1]}. It is no race, for the bits "
                "differ: it is what somebody with that model and one device can have.",
                "",
            ]
    return []


def tables(results: Results) -> str:
    """Everything that was measured, as Markdown."""
    decode, prompts = cells_of(results, False), cells_of(results, True)
    lines: list[str] = []
    if decode:
        counts = " / ".join(str(each) for each in dict.fromkeys(cell.decode for cell in decode))
        lines += [f"## Decode: {counts} tokens", "", f"Medians of {rounds_of(results, decode)} (least-most).", ""]
        lines += [*decode_table(results, decode), *published(results, decode)]
        sentences = [each for cell in decode if (each := forbidden(results, cell))]
        if sentences:
            lines += ["What the disk forbids:", "", *(f"* {each}" for each in sentences), ""]
        lines += ["What is kept, and what it takes:", "", *memory_table(results, decode)]
    if prompts:
        lines += ["## Prompts", "", f"Medians of {rounds_of(results, prompts)} (least-most).", ""]
        lines += prompt_table(results, prompts)
    return "\n".join(lines)


def page(results: Results, picture: str | None, trace: str | None = None) -> str:
    """docs/window.md, with the names of its pictures."""
    lines = [
        "# Models larger than memory: figures",
        "",
        "`--memory` beside llama.cpp with mmap and beside a loader that reads layer by layer, each in a control group",
        "of the same size: the kernel kills what holds more. Page cache counts, and is empty when a run begins.",
        "[METHOD.md](../benchmarks/METHOD.md) says what is measured and how. Weights are random, in published shapes.",
        "Made by `benchmarks/window.py --report` from benchmarks/results/window.jsonl; do not edit.",
        "",
        *conditions(results),
        "",
    ]
    if picture:
        lines += [f"![Seconds a token by the memory that there is]({picture})", ""]
    lines += [tables(results)]
    if trace:
        lines += ["## One token", ""]
        lines += ["What computed, waited and read while one token was made (Llama-2-7B Q4_0, `--memory 1GiB`):", ""]
        lines += [f"![Threads that read without pause, and blocks that are computed as they come]({trace})", ""]
    lines += [
        "## Again",
        "",
        "    python benchmarks/make_shape.py llama-2-7b llama-2-7b-q4_0.gguf --type q4_0   # and so on",
        '    sudo python benchmarks/window.py --llama-bench "PATH -lm mmap --repack 0" --json results.jsonl '
        "llama-2-7b-q4_0.gguf@1GiB",
        "    python benchmarks/window.py --report results.jsonl --picture docs/window.png > docs/window.md",
    ]
    return "\n".join(lines)
