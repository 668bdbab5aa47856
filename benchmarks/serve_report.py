"""From the results of `serve.py` to Markdown: its tables, and docs/serving.md."""

from __future__ import annotations

import statistics
from typing import Any

from engine_figures import MET, NOT_MET, Value, name_of, of, over, threads_of, values
from engine_report import conditions, rounds_of, table
from engine_results import OURS, Results, Round
from measuring import spread
from serve_runs import Cell

PEER = "llama-server"  # the goals are about it
GOAL_CLIENTS, GOAL = 8, 1.3  # times its tokens/s, with a TTFT p99 that is not worse
MS = 1e-3


def told(one: Round) -> str:
    """A round in a few words."""
    parts = []
    for name, run in sorted(one.runs.items()):
        errors = f", {run['n_errors']} ERRORS" * bool(run["n_errors"])
        parts.append(f"{name} {run['tokens_per_s']:.1f} tokens/s, TTFT p99 {run['ttft_p99_s'] / MS:.0f} ms{errors}")
    return "; ".join(parts) + ("" if one.quiet else f"  NOT QUIET: others took {one.others:.0%}")


def groups(results: Results) -> dict[tuple[Any, ...], list[Cell]]:
    """Cells that differ in their clients alone, files in their order."""
    found: dict[tuple[Any, ...], list[Cell]] = {}
    order = list(results.files)
    for cell in sorted(results.attempts, key=lambda c: (order.index(c.file), c.threads, c.clients)):
        key = (cell.file, cell.threads, cell.slots, cell.context, cell.system, cell.own, cell.answer)
        found.setdefault((*key, cell.requests // cell.clients), []).append(cell)
    return found


def peers_of(results: Results, cells: list[Cell]) -> list[str]:
    """Those beside ours, by their names."""
    return sorted({name for cell in cells for each in results.rounds(cell) for name in each.runs} - {OURS})


def goal_of(cell: Cell, peer: str, ratio: float, first: float | None) -> str:
    """Whether the goal is met. ratio: of tokens/s. first: of TTFT p99, theirs over ours."""
    if cell.clients != GOAL_CLIENTS or not peer.startswith(PEER):
        return ""
    return MET if round(ratio, 2) >= GOAL and (first is None or round(first, 2) >= 1) else NOT_MET


def ratios_table(results: Results, cells: list[Cell], peers: list[str]) -> list[str]:
    """One row for each number of clients: total tokens/s, and ratios to each peer."""
    head, rows = ["clients", "Ingle, tokens/s"], []
    for peer in peers:
        head += [f"{peer}, tokens/s", "Ingle / it", "its TTFT p99 / Ingle's"]
    for cell in cells:
        rounds = results.rounds(cell)
        row = [str(cell.clients), shown(rounds, of(OURS, "tokens_per_s"), 1)]
        for peer in peers:
            ratios = values(rounds, over(of(OURS, "tokens_per_s"), of(peer, "tokens_per_s")))
            firsts = values(rounds, over(of(peer, "ttft_p99_s"), of(OURS, "ttft_p99_s")))
            if not ratios:
                row += ["-"] * 3
                continue
            end = goal_of(cell, peer, statistics.median(ratios), statistics.median(firsts) if firsts else None)
            quiet = "" if all(each.quiet for each in rounds) else ", NOT QUIET"
            row += [shown(rounds, of(peer, "tokens_per_s"), 1), spread(ratios, 2) + end + quiet, spread(firsts, 2)]
        rows.append(row)
    return table(head, rows)


def waits_table(results: Results, cells: list[Cell], peers: list[str]) -> list[str]:
    """One row for each number of clients and server: waits in milliseconds, and what the run took."""
    head = ["clients", "server", "TTFT p50, ms", "TTFT p99, ms", "ITL p50, ms", "ITL p99, ms", "cached of prompts"]
    head += ["server's CPU, ms a token", "peak, MiB", "errors"]
    rows = []
    for cell in cells:
        rounds = results.rounds(cell)
        for name in (OURS, *peers):
            if not values(rounds, of(name, "tokens_per_s")):
                continue
            row = [str(cell.clients), "Ingle" if name == OURS else name]
            row += [shown(rounds, of(name, f"{kind}_p{at}_s", MS), 1) for kind in ("ttft", "itl") for at in (50, 99)]
            cached = values(rounds, over(of(name, "cached_tokens"), of(name, "prompt_tokens")))
            row.append(f"{statistics.median(cached):.0%}" if cached else "-")
            row.append(shown(rounds, over(of(name, "server_cpu_s", MS), of(name, "completion_tokens")), 2))
            row.append(f"{statistics.median(values(rounds, of(name, 'peak_bytes', 2**20))):.0f}")
            row.append(str(sum(int(value) for value in values(rounds, of(name, "n_errors")))))
            rows.append(row)
    return table(head, rows)


def shown(rounds: list[Round], value: Value, digits: int) -> str:
    """Median and spread of a figure; "-" where there is none."""
    found = values(rounds, value)
    return spread(found, digits) if found else "-"


def tables(results: Results) -> str:
    """Everything that was measured, as Markdown."""
    lines: list[str] = []
    for cells in groups(results).values():
        cell, peers = cells[0], peers_of(results, cells)
        lines += [f"## {name_of(results.files[cell.file])}, {threads_of(cell)}", ""]
        lines += [
            f"{cell.slots} slots of {cell.context} positions; {cell.requests // cell.clients} requests of each client: "
            f"{cell.system} tokens that all have, {cell.own} of its own, answers of {cell.answer}. Medians of "
            f"{rounds_of(results, cells)} (least-most).",
            "",
        ]
        lines += ratios_table(results, cells, peers)
        lines += ["The waits:", "", *waits_table(results, cells, peers)]
        lengths = {
            n for c in cells for each in results.rounds(c) for run in each.runs.values() for n in run["answer_tokens"]
        }
        if lengths != {cell.answer}:
            lines += [
                f"NOT THE SAME WORK: answers had {min(lengths)} to {max(lengths)} tokens, for some ended early.",
                "",
            ]
    return "\n".join(lines)


def page(results: Results, picture: str | None) -> str:
    """docs/serving.md."""
    lines = [
        "# Serving many at once",
        "",
        "`ingle serve` beside llama.cpp's llama-server: same file, same number of threads and slots, the same requests",
        "in the same order over HTTP, streamed. Server and clients share the cores of the machine, for both alike.",
        "[METHOD.md](../benchmarks/METHOD.md) says what is measured and how. Weights are random, in published shapes.",
        "Made by `benchmarks/serve.py --report` from benchmarks/results/serve.jsonl; do not edit.",
        "",
        f"The goal is {GOAL:g} times the tokens/s of llama-server at {GOAL_CLIENTS} clients, with a time to the first",
        "token (TTFT) that is not longer at the 99th percentile. ITL is the time between two texts of an answer.",
        "",
        *conditions(results),
        "",
    ]
    if picture:
        lines += [f"![Tokens a second by the number of clients]({picture})", ""]
    lines += [tables(results)]
    lines += [
        "## Again",
        "",
        "    python benchmarks/serve.py --llama-server PATH --json results.jsonl *.gguf",
        "    python benchmarks/serve.py --report results.jsonl --picture docs/serving.png > docs/serving.md",
    ]
    return "\n".join(lines)
