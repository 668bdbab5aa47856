"""An endless stream of batches that can be stopped at any step and goes on exactly where it was.

with Loader(shards.train, positions=512, rows_per_step=64, seed=1) as loader:
    for batch in loader.next(micro_rows=16): ...
    state = loader.state()  # JSON
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ingle.errors import DataError, TrainingError
from ingle.train.data.batches import Batch, count_targets, gather, join
from ingle.train.data.packing import Epoch, Ints, Window, plan_epoch
from ingle.train.data.shard_format import Shards

__all__ = ["Batch", "Loader", "validation_rows"]

_STATE = "ingle-loader-1"
_MAX_POSITIONS = 2**24
_EMPTY_EPOCHS = 1000


@dataclass(frozen=True, slots=True)
class _Place:
    """The next row: of which epoch, which window in it, which row in that."""

    epoch: int = 0
    window: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """One optimiser step: this rank's rows, the targets of all ranks, and where the next step begins."""

    batch: Batch
    n_targets: int
    place: _Place
    rank: int
    world: int


class Loader:
    """Rows of packed documents, epoch after epoch, `rows_per_step` at a time.

    The order of rows depends on the shards, `positions` and `seed` alone: not on the number of ranks, nor on the size
    of micro-batches or steps. Rows that are left at the end of an epoch go into a step with the first of the next.
    A thread prepares the step after the current one; `close` (or leaving the `with`) ends it. One thread uses a loader.
    """

    def __init__(self, shards: Shards, positions: int, rows_per_step: int, seed: int = 0) -> None:
        """Raises DataError where the shards are empty, TrainingError for numbers that cannot be."""
        if not 1 <= positions <= _MAX_POSITIONS or rows_per_step < 1:
            raise TrainingError(
                f"A step has at least 1 row of 1 to {_MAX_POSITIONS} positions; got {rows_per_step} of {positions}."
            )
        if not 0 <= seed < 2**64:
            raise TrainingError(f"A seed is a whole number from 0 to 2^64 - 1; got {seed}.")
        _require_documents(shards)
        if not (shards.weights[shards.sources] > 0).any():
            raise DataError("No document has a weight above 0, so an epoch would be empty: give a source a weight.")
        self.shards, self.positions, self.rows_per_step, self.seed = shards, positions, rows_per_step, seed
        self.n_targets = 0  # in the step that `next` gave last, over all ranks
        self._plan = _Plan(shards, positions, seed)
        self._place = _Place()
        self._ahead: Future[_Step] | None = None
        self._thread = ThreadPoolExecutor(1, "ingle-loader")

    @property
    def epoch(self) -> int:
        """The epoch, from 0, of the next row."""
        return self._place.epoch

    def next(self, rank: int = 0, world: int = 1, micro_rows: int | None = None) -> list[Batch]:
        """The rows of rank `rank` of `world` in the next step (every world-th row), as micro-batches.

        All ranks must ask for every step. Raises TrainingError where `world` does not divide the rows of a step,
        and DataError for damaged shards; after an error the loader is where it was.
        """
        if not 0 <= rank < world or self.rows_per_step % world or (micro_rows is not None and micro_rows < 1):
            raise TrainingError(
                f"A step of {self.rows_per_step} rows cannot be dealt to {world} devices in micro-batches of "
                f"{micro_rows or 'all'} rows for device {rank}: make the rows of a step a multiple of the devices."
            )
        step = self._take_ahead()
        if step is None or step.rank != rank or step.world != world:
            step = self._thread.submit(self._step, self._place, rank, world).result()
        self._place, self.n_targets = step.place, step.n_targets
        self._ahead = self._thread.submit(self._step, step.place, rank, world)
        return step.batch.split(micro_rows)

    def state(self) -> dict[str, Any]:
        """Where `next` goes on, as JSON, and what it must go on with."""
        place = self._place
        return {**self._identity(), "epoch": place.epoch, "window": place.window, "row": place.row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Another number of rows in a step, or of ranks, is fine.

        Raises TrainingError for a state of other data, another seed or other positions.
        """
        for key, expected in self._identity().items():
            found = state.get(key)
            if found != expected:
                raise TrainingError(
                    f"This run cannot go on with these data: its {key} was {found!r} and is now {expected!r}; go back "
                    "to the settings and files it began with, or begin a new run."
                )
        place = _Place(*(_whole(state.get(key)) for key in ("epoch", "window", "row")))
        self._take_ahead()
        if not self._thread.submit(self._plan.holds, place).result():
            raise TrainingError(f"The state of the data loader is damaged (no row {place}): use an earlier checkpoint.")
        self._place = place

    def epoch_rows(self, epoch: int = 0) -> int:
        """Rows of an epoch, exactly (with weights that are not whole, epochs differ a little)."""
        return _epoch(self.shards, self.positions, self.seed, epoch).n_rows()

    def epoch_positions(self, epoch: int = 0) -> int:
        """Positions of an epoch, padding included: rows times positions."""
        return self.epoch_rows(epoch) * self.positions

    def close(self) -> None:
        """End the thread; `state` still answers."""
        self._ahead = None
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _identity(self) -> dict[str, Any]:
        return {
            "loader": _STATE,
            "shards digest": self.shards.digest,
            "positions": self.positions,
            "seed": self.seed,
        }

    def _take_ahead(self) -> _Step | None:
        ahead, self._ahead = self._ahead, None
        return None if ahead is None else ahead.result()

    def _step(self, place: _Place, rank: int, world: int) -> _Step:
        """Runs in the thread, which alone uses `_plan`."""
        parts, n_targets, done = [], 0, 0
        for window, rows, after in self._plan.rows_from(place, self.rows_per_step):
            mine = rows[(rank - done) % world :: world]
            if len(mine):
                parts.append(gather(self.shards, window, mine, self.positions))
            n_targets += count_targets(self.shards, window, rows)
            done += len(rows)
            place = after
        return _Step(join(parts), n_targets, place, rank, world)


class _Plan:
    """Finds rows by their place, keeping the epoch and the window in use."""

    def __init__(self, shards: Shards, positions: int, seed: int) -> None:
        self._shards, self._positions, self._seed = shards, positions, seed
        self._epoch: Epoch | None = None
        self._window: tuple[_Place, Window] | None = None

    def rows_from(self, place: _Place, n: int) -> Iterator[tuple[Window, Ints, _Place]]:
        """`n` rows as (window, rows in it, the place after them)."""
        empty = 0
        while n:
            epoch = self._epoch_of(place.epoch)
            if place.window >= epoch.n_windows:
                empty = empty + 1 if not epoch.n_windows else 0
                if empty > _EMPTY_EPOCHS:
                    raise DataError("The weights of the sources are so small that epochs stay empty: give larger ones.")
                place = _Place(place.epoch + 1)
                continue
            window = self._window_at(place)
            if place.row >= window.n_rows:
                place = _Place(place.epoch, place.window + 1)
                continue
            rows = np.arange(place.row, min(place.row + n, window.n_rows))
            n -= len(rows)
            place = _Place(place.epoch, place.window, place.row + len(rows))
            yield window, rows, place

    def holds(self, place: _Place) -> bool:
        epoch = self._epoch_of(place.epoch)
        if place.window >= epoch.n_windows:
            return place.row == 0 and place.window == epoch.n_windows
        return place.row <= self._window_at(place).n_rows

    def _epoch_of(self, number: int) -> Epoch:
        if self._epoch is None or self._epoch.number != number:
            self._epoch = _epoch(self._shards, self._positions, self._seed, number)
        return self._epoch

    def _window_at(self, place: _Place) -> Window:
        key = _Place(place.epoch, place.window)
        if self._window is None or self._window[0] != key:
            self._window = (key, self._epoch_of(place.epoch).window(place.window))
        return self._window[1]


def validation_rows(shards: Shards, positions: int, max_rows: int | None = None) -> Batch:
    """Packed rows for measuring the loss: the same on every call, whatever the seed of the run.

    At most `max_rows` rows, of documents drawn over the whole side; each document at most once, without weights, and
    cut only if it is longer than a row.
    Raises DataError for empty shards.
    """
    _require_documents(shards)
    epoch = plan_epoch(shards.ends, np.ones(1), positions, 0, 0, whole=True)
    parts, n = [], 0
    for number in range(epoch.n_windows):
        window = epoch.window(number)
        rows = np.arange(window.n_rows if max_rows is None else min(window.n_rows, max_rows - n))
        parts.append(gather(shards, window, rows, positions))
        n += len(rows)
        if n == max_rows:
            break
    return join(parts)


def _epoch(shards: Shards, positions: int, seed: int, number: int) -> Epoch:
    # A text may be cut to fill a row; an answer must not lose its question.
    whole = not shards.all_learnt
    return plan_epoch(shards.ends, shards.weights[shards.sources], positions, seed, number, whole=whole)


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise TrainingError("The state of the data loader is damaged: go back to an earlier checkpoint.")
    return value


def _require_documents(shards: Shards) -> None:
    if not shards.n_documents:
        raise DataError("These token shards hold no document: give data, or a validation share above 0.")
