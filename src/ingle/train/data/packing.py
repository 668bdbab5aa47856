"""Which tokens stand in which row: an epoch of documents, packed into rows of equal length with hardly a gap.

An epoch is a permutation of the documents. It is cut into windows (of bounded memory), and those are packed. A
document cut without need loses context that it was written with (Ding et al., arXiv 2404.10830): plain texts are cut
where nothing else fills a row, and what must stay whole is cut only if it is longer than a row. Everything is whole
numbers and stable sorts, drawn from raw Philox bits, so that it is the same on every machine and with every version of
NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.train.data.filling import fill_rows

__all__ = ["WINDOW_DOCUMENTS", "Epoch", "Ints", "Window", "best_fit_decreasing", "pack", "plan_epoch", "ragged_range"]

Ints = NDArray[np.int64]

WINDOW_DOCUMENTS = 2**16
_WINDOW_POSITIONS = 2**28  # a window of books ends earlier


@dataclass(frozen=True)
class Window:
    """Rows made of pieces; a piece is a stretch of one document.

    Piece p reads the tokens `begins[p] : begins[p] + lengths[p]` and predicts those one further; row r consists of the
    pieces `first_piece[r] : first_piece[r + 1]`. All int64.
    """

    begins: Ints
    lengths: Ints
    first_piece: Ints

    @property
    def n_rows(self) -> int:
        return len(self.first_piece) - 1


@dataclass(frozen=True)
class Epoch:
    """The documents of one epoch in their order: `begins` [N] of their tokens, and `counts` [N] of these.

    whole: documents that fit into a row are not cut.
    """

    begins: Ints
    counts: Ints
    positions: int
    seed: int
    number: int
    whole: bool

    @cached_property
    def window_bounds(self) -> list[int]:
        """Window w holds the documents `bounds[w] : bounds[w + 1]`."""
        filled = np.cumsum(self.counts)
        bounds = [0]
        while (begin := bounds[-1]) < len(filled):
            before = int(filled[begin - 1]) if begin else 0
            enough = int(np.searchsorted(filled, before + _WINDOW_POSITIONS)) + 1
            bounds.append(min(begin + WINDOW_DOCUMENTS, enough, len(filled)))
        return bounds

    @property
    def n_windows(self) -> int:
        return len(self.window_bounds) - 1

    def window(self, number: int) -> Window:
        """The rows of one window, in the order in which they are trained on."""
        documents = slice(*self.window_bounds[number : number + 2])
        bits = _bits(self.seed, self.number, 1 + number)
        return pack(self.begins[documents], self.counts[documents], self.positions, bits, whole=self.whole)

    def n_rows(self) -> int:
        """Rows of the whole epoch. Packs every window: some seconds for ten million documents."""
        return sum(self.window(number).n_rows for number in range(self.n_windows))


def plan_epoch(
    ends: Ints, weights: NDArray[np.float64], positions: int, seed: int, number: int, *, whole: bool
) -> Epoch:
    """Draw and shuffle the documents of epoch `number`.

    `ends` [N] int64: where each document's tokens end; every document has at least two tokens. `weights` [N] or [1]:
    a document of weight w is taken floor(w) times, and once more with probability w - floor(w).
    """
    bits = _bits(seed, number, 0)
    taken: Any = np.arange(len(ends))
    if not (weights == 1).all():
        times = np.floor(weights)
        chance = (bits.random_raw(len(ends)) >> np.uint64(11)) * 2.0**-53
        taken = np.repeat(taken, (times + (chance < weights - times)).astype(np.int64))
    order = taken[_shuffled(len(taken), bits)]
    begins = np.where(order > 0, ends[order - 1], 0)
    return Epoch(begins, ends[order] - begins, positions, seed, number, whole)


def pack(begins: Ints, counts: Ints, positions: int, bits: np.random.BitGenerator, *, whole: bool) -> Window:
    """Pack documents (at least one) into rows of `positions`, in shuffled order.

    A document of n tokens, n >= 2, takes n - 1 positions: each token but its first is predicted exactly once. Where it
    is cut, the pieces overlap by the one token that is predicted and then read. `whole` as in `Epoch`.
    """
    takes = counts - 1
    full = (takes - 1) // positions  # rows that a document fills alone, before a last piece of 1 to `positions`
    alone = np.repeat(begins, full) + ragged_range(np.zeros_like(full), full) * positions
    rest, lengths = begins + full * positions, takes - full * positions
    if whole:
        row = best_fit_decreasing(lengths, positions)
    else:
        rest, lengths, row = fill_rows(rest, lengths, positions)
    n_shared = int(row.max()) + 1
    n_rows = n_shared + len(alone)
    rest = np.concatenate((rest, alone))
    lengths = np.concatenate((lengths, np.full(len(alone), positions)))
    shuffled = np.empty(n_rows, np.int64)
    shuffled[_shuffled(n_rows, bits)] = np.arange(n_rows)
    row = shuffled[np.concatenate((row, np.arange(n_shared, n_rows)))]
    order = np.argsort(row, kind="stable")
    first_piece = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=n_rows))))
    return Window(rest[order], lengths[order], first_piece)


def best_fit_decreasing(sizes: Ints, capacity: int) -> Ints:
    """The bin of each item: largest items first, each into the fullest bin that still takes it.

    `sizes` [N >= 1] int64 from 1 to `capacity`; returns [N] int64 bins numbered from 0. Items of one size are placed
    together: the fullest bin that takes one goes on to be the fullest until it takes no more. So the steps are as many
    as (size, free space) pairs in use, never more than items, and each is a few operations on whole arrays.
    """
    bins = np.empty(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    with_free: list[list[Ints]] = [[] for _ in range(capacity + 1)]  # bins by their free space
    in_use = np.zeros(capacity + 1, bool)
    n_bins = 0
    distinct, starts = np.unique(-sizes[order], return_index=True)
    for size, items in zip((-distinct).tolist(), np.split(order, starts[1:]), strict=True):
        for free in [*(size + np.flatnonzero(in_use[size:])).tolist(), 0]:
            if not len(items):
                break
            if free:
                bins_here = np.concatenate(with_free[free])
                each = free // size
                n = min(len(bins_here), -(-len(items) // each))
                with_free[free], in_use[free] = [bins_here[n:]], n < len(bins_here)
            else:  # new bins
                free, each = capacity, capacity // size
                n = -(-len(items) // each)
                bins_here = np.arange(n_bins, n_bins + n)
                n_bins += n
            placed, items = items[: each * n], items[each * n :]
            bins[placed] = np.repeat(bins_here[:n], each)[: len(placed)]
            in_last = len(placed) - each * (n - 1)
            for some, left in ((bins_here[: n - 1], free - each * size), (bins_here[n - 1 : n], free - in_last * size)):
                if len(some) and left:
                    with_free[left].append(some)
                    in_use[left] = True
    return bins


def ragged_range(begins: Ints, counts: Ints) -> Ints:
    """`begins[0] .. begins[0] + counts[0] - 1`, then the same for 1, and so on, in one array."""
    before = np.cumsum(counts) - counts
    total = int(counts.sum())
    out: Ints = np.arange(total) + np.repeat(begins - before, counts)
    return out


def _bits(seed: int, epoch: int, purpose: int) -> np.random.BitGenerator:
    # Four words of 32 bits, always: a SeedSequence pads with zeros, so that [1] and [1, 0] would be the same seed.
    words = (seed & 0xFFFFFFFF, seed >> 32, epoch, purpose)
    return np.random.Philox(np.random.SeedSequence(words))


def _shuffled(n: int, bits: np.random.BitGenerator) -> Ints:
    """A permutation of n. Not `Generator.permutation`: what that draws may change between versions of NumPy."""
    keys: Any = bits.random_raw(n)
    order: Ints = np.argsort(keys, kind="stable")
    return order
