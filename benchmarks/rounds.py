"""Rounds of a benchmark, one after the other over all cells, until they are done or the time is over."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from engine_results import Journal, Round
from measuring import RunFailed

__all__ = ["run_rounds"]


def run_rounds(
    options: argparse.Namespace,
    cells: Iterable[Any],
    journal: Journal,
    *,
    wanted: Callable[[Any], Sequence[str]],
    measure: Callable[[Any, int], Round],
    told: Callable[[Round], str],
) -> list[str]:
    """Every round that is not in the journal yet; the sentences of what failed.

    options: `rounds`, `retries` of a disturbed one, and `minutes` or None. wanted: the contenders of a cell, of which
    none leaves it out. measure(cell, round): from 0; a cell for which it raises RunFailed is given up.
    """
    results, cells = journal.results, list(cells)
    began, failed = time.monotonic(), dict[Any, str]()
    for number in range(options.rounds):
        for cell in cells:
            contenders = wanted(cell)
            while cell not in failed and contenders and not results.is_done(cell, number, contenders, options.retries):
                expected = max((each.wall_s for each in results.attempts.get(cell, [])), default=0.0)
                if options.minutes is not None and time.monotonic() - began + expected > 60 * options.minutes:
                    return [*failed.values(), f"{options.minutes:g} minutes are over; the same command goes on."]
                try:
                    one = measure(cell, number)
                except RunFailed as error:
                    failed[cell] = f"{cell.file}, {cell.work}: given up. {error}"
                    break
                journal.write_round(cell, one)
                print(f"{cell.file}, {cell.work}, round {number + 1}: {told(one)}", file=sys.stderr, flush=True)
    return list(failed.values())
