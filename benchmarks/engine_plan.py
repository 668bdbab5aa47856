"""What `engine.py` will run, in which order, and for how long."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from engine_results import FLOOR, NATIVE, OURS, Cell, File, Results

SEQUENCE_DECODE = 64  # tokens of each of many sequences
FLOOR_EVERY = 2  # rounds: the machine's limits move less than programs do

Peers = dict[str, dict[str, list[str]]]  # instruction set -> name -> command


def plan(options: argparse.Namespace, files: Sequence[File]) -> list[Cell]:
    """The cells of one round, in order. Prompts that a file's context does not hold are left out."""
    cells = []
    first, *others = options.prompts or [0]
    for file in files:
        for isa in options.isa:
            for threads in options.threads:
                work = [(first, options.decode, 0), *((prompt, 0, 0) for prompt in others)]
                work += [(0, SEQUENCE_DECODE, options.sequences)] * bool(options.sequences)
                for prompt, decode, sequences in work:
                    if (prompt or decode) and max(prompt, decode) + 4 <= file.context:
                        cells.append(Cell(file.file, isa, threads, prompt, decode, sequences))
    return cells


def contenders(cell: Cell, number: int, peers: Peers) -> list[str]:
    """Who runs in a round of a cell; who goes first rotates. The floor is measured in every second round."""
    if cell.sequences:
        return [OURS]
    names = [OURS, *peers.get(cell.isa, {})]
    names = names[number % len(names) :] + names[: number % len(names)]
    return [*names, FLOOR] if number % FLOOR_EVERY == 0 else names


def expected_s(cell: Cell, number: int, peers: Peers, results: Results) -> float:
    """Seconds that a round will take: as it took before, else by what comparable machines do, corrected by this one."""
    if known := [each.wall_s for each in results.attempts.get(cell, [])]:
        return statistics.fmean(known)

    def guess(cell: Cell) -> float:
        file = results.files[cell.file]
        seconds = 0.0
        for name in contenders(cell, number, peers):
            passes = cell.decode * (4 if cell.sequences else 1) * file.bytes_per_token / (11e9 * cell.threads)
            twice = 2 if cell.prompt <= 1024 else 1.1
            rate = (1.1e12 if name == OURS else 0.21e12) * cell.threads * (1 if cell.isa == NATIVE else 0.35)
            once = 1.0 + file.n_bytes / 0.7e9
            seconds += once if name == FLOOR else once + passes + twice * 2 * file.block_weights * cell.prompt / rate
        return seconds

    taken = [(statistics.fmean(each.wall_s for each in some), guess(c)) for c, some in results.attempts.items() if some]
    factor = sum(wall for wall, _ in taken) / sum(of for _, of in taken) if taken else 1.0
    return factor * guess(cell)


def label(cell: Cell) -> str:
    """A cell in words."""
    isa = "" if cell.isa == NATIVE else f", {cell.isa}"
    return f"{cell.file}{isa}, {cell.threads} thread{'s' * (cell.threads > 1)}, {cell.work}"
