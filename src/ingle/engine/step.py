"""What one step computes: a row of each answer, and as much of waiting prompts as the answers can wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingle.backends.base import Rows
from ingle.engine.sequence import RunningSequence

__all__ = ["Pace", "Part", "Step", "plan"]

# So long answers may wait for a chunk of a prompt: five tokens a second are still as fast as reading. On two cores a
# 1.1B model computes 180 rows in it, at the most rows a second there are; half the time would give half the rate.
STALL_S = 0.2
LEAST_ROWS, MOST_ROWS = 32, 256  # of prompts beside answers; with fewer, most of a step is reading the weights
TILE_ROWS = 16  # kernels compute so many rows together


class Pace:
    """How many rows of prompts may stand in a step beside answers, by how long the steps before took.

    A step of n rows took t, so the next one has n * STALL_S / t. That is repeated until t is STALL_S, whatever part of
    it is the same for any number of rows.
    """

    def __init__(self, chunk: int) -> None:
        """chunk: the most rows of prompts in any step."""
        self._most = min(MOST_ROWS, chunk)
        self._row_s: float | None = None

    @property
    def rows(self) -> int:
        """At most so many."""
        rows = self._most // 2 if self._row_s is None else int(min(STALL_S / self._row_s, self._most))
        return min(self._most, max(LEAST_ROWS, rows // TILE_ROWS * TILE_ROWS))

    def observe(self, n_rows: int, time_s: float) -> None:
        """A step of so many rows took so long. Few rows say nothing: their time is that of reading the weights."""
        if n_rows < LEAST_ROWS or time_s <= 0:
            return
        row_s = time_s / n_rows
        self._row_s = row_s if self._row_s is None else (self._row_s + row_s) / 2


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [begin, end) of a step are the positions [start, stop) of a sequence. The last `n_asked` of them have
    logits."""

    sequence: RunningSequence
    begin: int
    end: int
    start: int
    stop: int
    n_asked: int


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one call, whose they are, and the indices of those with logits. n_prompt_rows: of prompts."""

    rows: Rows
    parts: list[Part]
    wanted: list[int]
    n_prompt_rows: int


def plan(sequences: Sequence[RunningSequence], chunk: int, chunk_beside: int) -> Step | None:
    """The next step of running sequences, in the order in which they began; None where there are none.

    chunk: rows of prompts where no answer waits for them; chunk_beside: where one does.
    """
    answers = [sequence for sequence in sequences if not sequence.in_prompt]
    prompts = [sequence for sequence in sequences if sequence.in_prompt]
    left = chunk_beside if answers else chunk
    shares = [(sequence, sequence.n_due) for sequence in answers]
    for sequence in _turns(prompts, left):
        n = min(left, sequence.n_due)
        if n:
            shares.append((sequence, n))
            left -= n
    if not shares:
        return None

    slots: list[int] = []
    positions: list[int] = []
    tokens: list[int] = []
    parts: list[Part] = []
    wanted: list[int] = []
    for sequence, n in shares:
        begin, start = len(slots), sequence.n_computed
        stop = start + n
        slots.extend([sequence.slot.index] * n)
        positions.extend(range(start, stop))
        tokens.extend(sequence.tokens[start:stop].tolist())
        n_asked = max(0, min(n, stop - sequence.first_asked))
        wanted.extend(range(len(slots) - n_asked, len(slots)))
        parts.append(Part(sequence, begin, len(slots), start, stop, n_asked))
    rows = Rows(np.array(slots, np.int32), np.array(positions, np.int32), np.array(tokens, np.int32))
    return Step(rows, parts, wanted, sum(n for _, n in shares[len(answers) :]))


def _turns(prompts: list[RunningSequence], room: int) -> list[RunningSequence]:
    """Who is computed first. One after the other, as they came: that ends them soonest. But the first does not fill
    the step: then half of it is for those which are done with that."""
    if not prompts or prompts[0].n_due <= room:
        return prompts
    short = []
    left = room // 2
    for sequence in sorted(prompts[1:], key=lambda sequence: sequence.n_due):
        left -= sequence.n_due
        if left < 0:
            break
        short.append(sequence)
    return [*short, *(sequence for sequence in prompts if sequence not in short)]
