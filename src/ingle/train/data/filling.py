"""Filling rows with texts: hardly a gap, and few texts cut.

Works on lengths, not on texts (a histogram, as in Krell et al., arXiv 2107.02027): a pattern of lengths that fills a
row is found once and used for as many rows as the texts of these lengths allow. A window of 2^16 texts takes some
hundred patterns, whatever the number of tokens.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_rows"]

Ints = NDArray[np.int64]

_SLACK = 100  # a row may leave 1 position in 100 empty
_LEAST = 4  # a cut leaves at least 1/4 of a row in the row, where there is a choice


def fill_rows(begins: Ints, lengths: Ints, capacity: int) -> tuple[Ints, Ints, Ints]:
    """Pieces as (begins, lengths, row) that fill rows of `capacity` positions; int64 [N >= 1] in, [N or more] out.

    Text i is the positions from `begins[i]` on, `lengths[i]` of them, from 1 to `capacity`. Longest texts come first.
    A row is completed by one or two texts that leave it 99% full or more; where there are none, the longest text that
    is left is cut, and its rest waits for a place as a text of its own. So no row but the last wastes
    more than 1%.
    """
    pool = _Pool(begins, lengths, capacity)
    out: list[tuple[Ints, int, Ints]] = []
    n_rows = 0
    while pool.sizes:
        whole, cut, head = _pattern(pool, capacity)
        needs = Counter([*whole, cut] if cut else whole)
        more = min(pool.counts[size] // n for size, n in needs.items())
        for size, n in needs.items():
            pool.reserve(size, more * n)
        rows = np.arange(n_rows, n_rows + 1 + more)
        n_rows += 1 + more
        out += [(pool.pop(size, len(rows)), size, rows) for size in whole]
        if cut:
            taken = pool.pop(cut, len(rows))
            out.append((taken, head, rows))
            pool.push(cut - head, taken + head)
    sizes = np.repeat([size for _, size, _ in out], [len(rows) for *_, rows in out])
    return np.concatenate([some for some, *_ in out]), sizes, np.concatenate([rows for *_, rows in out])


def _pattern(pool: _Pool, capacity: int) -> tuple[list[int], int, int]:
    """Lengths that fill one row, which are reserved; then the length of a text to cut, or 0, and how much of it."""
    whole: list[int] = []
    gap, slack = capacity, capacity // _SLACK
    while gap > slack and pool.sizes:
        longest = pool.largest(capacity)
        sizes = _completion(pool, gap, slack, longest) if whole else (longest,)
        if not sizes:
            size = pool.largest(gap - capacity // _LEAST)
            if not size and longest > gap:
                pool.reserve(longest, 1)
                return whole, longest, gap
            sizes = (size or longest,)  # without a longer text, the longest fits
        for size in sizes:
            pool.reserve(size, 1)
            whole.append(size)
            gap -= size
    return whole, 0, 0


def _completion(pool: _Pool, gap: int, slack: int, longest: int) -> tuple[int, ...]:
    """One or two lengths that together leave at most `slack` of `gap`, or none."""
    if (size := pool.largest(gap)) >= gap - slack:
        return (size,)
    for total in range(min(gap, 2 * longest), gap - slack - 1, -1):
        if size := pool.pair(total):
            return size, total - size
    return ()


class _Pool:
    """Texts by their length. The lengths in use are bits of a whole number, so that a search is one operation."""

    def __init__(self, begins: Ints, lengths: Ints, capacity: int) -> None:
        self.capacity = capacity
        self.counts = [0] * (capacity + 1)  # not yet reserved
        self.sizes = 0  # bit s: is there a text of length s?
        self._mirrored = 0  # bit capacity - s likewise
        self._begins: list[list[Ints]] = [[] for _ in range(capacity + 1)]
        order = np.argsort(lengths, kind="stable")
        sizes, starts = np.unique(lengths[order], return_index=True)
        for size, some in zip(sizes.tolist(), np.split(begins[order], starts[1:]), strict=True):
            self.push(size, some)

    def push(self, size: int, begins: Ints) -> None:
        self._begins[size].append(begins)
        self.reserve(size, -len(begins))

    def reserve(self, size: int, n: int) -> None:
        self.counts[size] -= n
        if (self.counts[size] > 0) != (self.sizes >> size & 1):
            self.sizes ^= 1 << size
            self._mirrored ^= 1 << (self.capacity - size)

    def pop(self, size: int, n: int) -> Ints:
        """`n` of the reserved texts of this length."""
        out = []
        while n:
            some = self._begins[size].pop()
            if len(some) > n:
                self._begins[size].append(some[:-n])
                some = some[-n:]
            out.append(some)
            n -= len(some)
        return np.concatenate(out)

    def largest(self, limit: int) -> int:
        """The largest length up to `limit`, or 0."""
        return max(0, (self.sizes & ((2 << limit) - 1)).bit_length() - 1) if limit > 0 else 0

    def pair(self, total: int) -> int:
        """The longer of two lengths with this sum, or 0."""
        both = self.sizes & (self._mirrored >> (self.capacity - total))
        if total % 2 == 0 and self.counts[total // 2] == 1:
            both &= ~(1 << total // 2)
        return max(0, both.bit_length() - 1)
