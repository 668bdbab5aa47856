"""From the results of `engine.py` to Markdown: its tables, and docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from engine_figures import (
    FORBIDDEN,
    LARGE,
    LOAD_GOAL,
    MET,
    NOT_MET,
    PEAK_GOAL,
    PEER,
    SEQUENCES_GOAL,
    SHARE_GOAL,
    Value,
    compared,
    forbidden,
    goal,
    limit,
    median,
    most,
    name_of,
    of,
    over,
    shares_judged,
    speed,
    threads_of,
    values,
    verdict,
)
from engine_results import FLOOR, NATIVE, OURS, Cell, Results
from measuring import QUIET, spread

Group = dict[str, dict[int, Cell]]  # file -> threads -> cell


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, and an empty line."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def groups(results: Results) -> dict[tuple[str, int, int, int], Group]:
    """Cells of the same work, native ones first: (isa, prompt, decode, sequences) -> group. Files in their order."""
    found: dict[tuple[str, int, int, int], Group] = {}
    order = list(results.files)
    for cell in sorted(results.attempts, key=lambda c: (c.isa != NATIVE, c.isa, order.index(c.file), c.threads)):
        key = (cell.isa, cell.prompt, cell.decode, cell.sequences)
        found.setdefault(key, {}).setdefault(cell.file, {})[cell.threads] = cell
    return found


def cells_of(group: Group) -> list[Cell]:
    """In the order of the rows."""
    return [cell for by in group.values() for cell in by.values()]


def works_of(cell: Cell) -> list[tuple[str, int]]:
    """What it measures of one sequence, and how many tokens of it."""
    return [(work, size) for work, size in (("decode", cell.decode), ("prefill", cell.prompt)) if size]


def ratios_table(results: Results, group: Group, peer: str) -> list[str]:
    """One row a file: for each work the goal, and the ratio for each number of threads."""
    cells = cells_of(group)
    threads = sorted({cell.threads: cell for cell in cells}.items())
    head, rows = ["shape, file"], []
    for work, size in works_of(cells[0]):
        head += [f"{work} {size}: goal", *(threads_of(cell) for _, cell in threads)]
    for name, by in group.items():
        file, row = results.files[name], [name_of(results.files[name])]
        for work, _ in works_of(cells[0]):
            wanted = goal(file, next(iter(by.values())), work) if peer == PEER else None
            row.append("-" if wanted is None else f">= {wanted:g}")
            row += [compared(results, by[n], work, peer) if n in by else "-" for n, _ in threads]
        rows.append(row)
    return table(head, rows)


def speeds_table(results: Results, group: Group, peer: str) -> list[str]:
    """tokens/s of both, our share of the floor, and what an engine at the floor would have."""
    works = works_of(cells_of(group)[0])
    head, rows = ["shape, file", "threads"], []
    for work, _ in works:
        head += [f"{work}, tokens/s", peer, "share of the floor", f"floor / {peer}"]
    for cell in cells_of(group):
        file, rounds = results.files[cell.file], results.rounds(cell)
        row = [name_of(file), str(cell.threads)]
        for work, _ in works:
            shares = values(rounds, over(speed(OURS, work), limit(file, cell, work)))
            share = f"{statistics.median(shares):.0%}" if shares else "-"
            if shares and work == "decode" and shares_judged(file, cell):
                share += MET if round(statistics.median(shares), 2) >= SHARE_GOAL else NOT_MET
            possible = most(results, cell, work, peer)
            rates = [values(rounds, speed(who, work)) for who in (OURS, peer)]
            row += [spread(rate, 1) if rate else "-" for rate in rates]
            row += [share, "-" if possible is None else f"{possible:.2f}"]
        rows.append(row)
    return table(head, rows)


def joined(found: Sequence[float | None], digits: int) -> str:
    """Medians for each number of threads."""
    return " / ".join("-" if each is None else f"{each:.{digits}f}" for each in found)


def load_table(results: Results, group: Group) -> list[str]:
    """Time to ready beside a warm read, and memory."""
    head = ["shape, file", "threads", "file, MiB", "ready after, s", "times a warm read", "peak while loading / file"]
    head += ["peak of the run, MiB", f"{PEER}, MiB"]
    rows = []
    for name, by in group.items():
        file = results.files[name]

        def medians(value: Value, cells: Sequence[Cell] = tuple(by.values())) -> list[float | None]:
            return [median(values(results.rounds(cell), value)) for cell in cells]

        def judged(value: Value, wanted: float, large: bool = file.n_bytes >= LARGE) -> str:
            found = medians(value)
            known = [round(each, 2) for each in found if each is not None]
            return joined(found, 2) + ((MET if max(known) <= wanted else NOT_MET) if large and known else "")

        rows.append(
            [
                name_of(file),
                " / ".join(map(str, by)),
                f"{file.n_bytes / 2**20:.0f}",
                joined(medians(of(OURS, "load_s")), 2),
                judged(over(of(OURS, "load_s"), of(FLOOR, "read_s")), LOAD_GOAL),
                judged(of(OURS, "load_peak_bytes", file.n_bytes), PEAK_GOAL),
                joined(medians(of(OURS, "peak_bytes", 2**20)), 0),
                joined(medians(of(PEER, "peak_bytes", 2**20)), 0),
            ]
        )
    return table(head, rows)


def sequences_table(results: Results, group: Group, n: int) -> list[str]:
    """Many sequences at once beside one."""
    head, rows = ["shape, file", "threads", "one, tokens/s", f"{n} at once, tokens/s in all", "times one"], []
    for cell in cells_of(group):
        rounds = results.rounds(cell)
        ratios = values(rounds, over(of(OURS, "many_tokens_per_s"), of(OURS, "one_tokens_per_s")))
        rates = [values(rounds, of(OURS, f"{key}_tokens_per_s")) for key in ("one", "many")]
        end = verdict(statistics.median(ratios), SEQUENCES_GOAL if n == 8 else None, None)
        row = [name_of(results.files[cell.file]), str(cell.threads), *(spread(rate, 1) for rate in rates)]
        rows.append([*row, spread(ratios, 2) + end])
    return table(head, rows)


def tables(results: Results) -> str:
    """Everything that was measured, as Markdown."""
    lines: list[str] = []
    loaded: set[str] = set()  # files whose loading stands in a table: it is the same whatever follows it
    for (isa, _, decode, sequences), group in groups(results).items():
        cells = cells_of(group)
        forced = "" if isa == NATIVE else f", limited to {isa}"
        pairs = rounds_of(results, cells)
        if sequences:
            lines += [f"## {cells[0].work} tokens{forced}", ""]
            lines += [
                f"Ours alone; medians of {pairs} (least-most). The goal of 8 is {SEQUENCES_GOAL:g} times one.",
                "",
            ]
            lines += sequences_table(results, group, sequences)
            continue
        names = {name for cell in cells for each in results.rounds(cell) for name in each.runs}
        for peer in sorted(names - {OURS, FLOOR}, key=lambda name: name != PEER):
            lines += [f"## Beside {peer}: {cells[0].work}{forced}", ""]
            lines += [f"Ratios of tokens/s, ours / {peer}; medians of {pairs} (least-most).", ""]
            lines += ratios_table(results, group, peer)
            sentences = [forbidden(results, cell, work) for work in ("decode", "prefill") for cell in cells]
            if peer == PEER and any(sentences):
                lines += ["What the floor forbids:", "", *(f"* {each}" for each in sentences if each), ""]
            lines += ["The speeds themselves:", "", *speeds_table(results, group, peer)]
        if not names - {OURS, FLOOR}:
            lines += [f"## Alone: {cells[0].work}{forced}", "", *speeds_table(results, group, PEER)]
        to_load = {file: by for file, by in group.items() if file not in loaded}
        if decode and isa == NATIVE and to_load:
            loaded |= to_load.keys()
            lines += ["## Load and memory", ""]
            lines += [f"Goals for files of {LARGE >> 20} MiB and more: ready in {LOAD_GOAL:g} times a warm read of the"]
            lines += [f"file, a peak of {PEAK_GOAL:g} times its size. Smaller ones are mostly Python.", ""]
            lines += load_table(results, to_load)
    return "\n".join(lines)


def rounds_of(results: Results, cells: Sequence[Cell]) -> str:
    """How many rounds there are, in words."""
    counts = sorted({len(results.rounds(cell)) for cell in cells})
    return f"{counts[0]} to {counts[-1]} rounds" if len(counts) > 1 else f"{counts[0]} round{'s' * (counts[0] > 1)}"


def conditions(results: Results) -> list[str]:
    """Machine, programs, and what disturbed the runs, as a list."""
    machine, ours = results.sessions[-1]["machine"], results.sessions[-1]["ingle"]
    days = sorted({str(session["date"])[:10] for session in results.sessions})
    lines = [
        f"* Measured on {days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'}.",
        f"* Machine: {machine['n_cpus']} CPUs of {machine['processor']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}; Python {machine['python']}. The instruction set that Ingle takes here is {ours['isa']}.",
        f"* Ingle {ours['version']} (module {ours['core']}, {ours['compiler']}; flags as in CMakeLists.txt, Release).",
    ]
    peers: dict[tuple[str, str], dict[str, Any]] = {}  # the last that is known of each
    for session in results.sessions:
        peers |= {(isa, name): facts for isa, by in session["peers"].items() for name, facts in by.items()}
    for (isa, name), facts in peers.items():
        limited = "" if isa == NATIVE else f" for {isa}"
        options = f"; {', '.join(facts['options'])}" if facts["options"] else ""
        flags = f"; run with {' '.join(facts['flags'])}" if facts["flags"] else "; in its defaults"
        lines.append(f"* {name}{limited}: {facts['version']}, {facts['compiler']}{options}{flags}.")
    lines += [f"* {note}" for note in dict.fromkeys(note for session in results.sessions for note in session["notes"])]
    rounds = [each for cell in results.attempts for each in results.rounds(cell)]
    loud = [each.others for each in rounds if not each.quiet]
    if loud:
        lines.append(
            f"* NOT QUIET: in {len(loud)} of {len(rounds)} rounds other programs took more than {QUIET:.0%} of the "
            f"processors, up to {max(loud):.0%}. Figures of such rounds should not be quoted."
        )
    else:
        lines.append(
            f"* Quiet: in none of {len(rounds)} rounds did others take more than {QUIET:.0%} of the processors."
        )
    return lines


def page(results: Results, picture: str | None) -> str:
    """docs/performance.md."""
    lines = [
        "# Performance",
        "",
        "Speed and memory of the native core beside llama.cpp: same file, same number of threads, interleaved runs of",
        "whole processes. [METHOD.md](../benchmarks/METHOD.md) says what is measured and how. Weights are random, in",
        "published shapes. Made by `benchmarks/engine.py --report` from benchmarks/results/engine.jsonl; do not edit.",
        "[Many clients of a server](serving.md) and [models larger than memory](window.md) have pages of their own;",
        "of the latter, in short:",
        "",
        "![Models larger than memory: seconds a token by the memory that there is](window.png)",
        "",
        *conditions(results),
        "",
    ]
    if picture:
        lines += [f"![Roofline: decode at the bandwidth, prefill below the multiplier]({picture})", ""]
    text = tables(results)
    marks = [text.count(mark) for mark in (MET, NOT_MET, FORBIDDEN)]
    if sum(marks):
        lines += [f"Of {sum(marks)} goals {marks[0]} are met, {marks[1]} are not, {marks[2]} the floor forbids.", ""]
    lines += [text]
    lines += [
        "## Again",
        "",
        "    python benchmarks/make_shape.py tinyllama-1.1b tinyllama-1.1b-q4_0.gguf --type q4_0   # and so on",
        "    python benchmarks/engine.py --llama-bench PATH --json results.jsonl *.gguf",
        "    python benchmarks/engine.py --report results.jsonl --picture docs/roofline.png > docs/performance.md",
    ]
    return "\n".join(lines)
