"""From rows to batches: token ids gathered from the shards, without a Python loop over tokens or pieces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingle.train.data.packing import Ints, Window, ragged_range
from ingle.train.data.shard_format import Shards

__all__ = ["IGNORED", "Batch", "count_targets", "gather", "join"]

IGNORED = -100  # the target of a position that does not count


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of T positions, NumPy arrays of their own that `torch.from_numpy` takes as they are.

    tokens: int64 [B, T]. targets: int64 [B, T], IGNORED at padding and where no loss is wanted. documents: int32
    [B, T], counted from 0 within a row; the padding at a row's end has the next number.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    documents: NDArray[np.int32]

    @property
    def n_rows(self) -> int:
        return len(self.tokens)

    @property
    def n_targets(self) -> int:
        """Positions that count in the loss."""
        return int(np.count_nonzero(self.targets != IGNORED))

    def split(self, rows: int | None) -> list[Batch]:
        """Micro-batches of `rows` rows, the last with what is left; views of this one."""
        if rows is None or rows >= self.n_rows:
            return [self]
        parts = [slice(begin, begin + rows) for begin in range(0, self.n_rows, rows)]
        return [Batch(self.tokens[part], self.targets[part], self.documents[part]) for part in parts]


def gather(shards: Shards, window: Window, rows: Ints, positions: int) -> Batch:
    """The rows `rows` [B] of a window."""
    first = window.first_piece[rows]
    n_pieces = window.first_piece[rows + 1] - first
    # Each row gets one piece more, its padding, so that every row is exactly `positions` long and the index is dense.
    number = ragged_range(np.zeros_like(first), n_pieces + 1)
    last = np.cumsum(n_pieces + 1) - 1
    piece = np.repeat(first, n_pieces + 1) + number
    piece[last] = 0
    lengths = window.lengths[piece]
    lengths[last] = 0
    used = np.add.reduceat(lengths, last - n_pieces)
    lengths[last] = positions - used
    begins = window.begins[piece]
    index = ragged_range(begins, lengths)
    padding = ragged_range(np.arange(len(rows)) * positions + used, positions - used)
    index[padding] = 0
    documents = np.repeat(number.astype(np.int32), lengths)
    tokens = shards.read(index).astype(np.int64)
    index += 1
    targets = shards.read(index).astype(np.int64)
    if not shards.all_learnt:
        targets[~shards.learnt(index)] = IGNORED
    tokens[padding] = 0
    targets[padding] = IGNORED
    shape = (len(rows), positions)
    return Batch(tokens.reshape(shape), targets.reshape(shape), documents.reshape(shape))


def count_targets(shards: Shards, window: Window, rows: Ints) -> int:
    """Positions of the rows `rows` that count in the loss, without reading a token."""
    first = window.first_piece[rows]
    piece = ragged_range(first, window.first_piece[rows + 1] - first)
    if shards.all_learnt:
        return int(window.lengths[piece].sum())
    return int(np.count_nonzero(shards.learnt(ragged_range(window.begins[piece] + 1, window.lengths[piece]))))


def join(batches: Iterable[Batch]) -> Batch:
    """One batch of all rows."""
    parts = list(batches)
    if len(parts) == 1:
        return parts[0]
    return Batch(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.documents for part in parts]),
    )
