"""Many token sequences in the slots of one cache: each call computes rows of all of them, shared beginnings only once.

Sequences stand in lexicographic order, so that those with a beginning in common are neighbours, and what any two share
is the least that neighbours between them share. A slot walks through a *stretch* of neighbours: it computes the first,
goes back to where the second differs, computes the rest of that, and so on (a question with its first answer, then
each other answer), without a copy. A stretch begins in the slot that holds most of its beginning, or in a copy of that;
where another slot is about to compute most of it (the examples that all questions begin with), it waits for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingle.engine.generate import chunk_rows
from ingle.engine.runner import Runner
from ingle.engine.slots import common_prefix

__all__ = ["Ids", "Packing", "Place", "Sequences", "Stretch"]

LOOK_AHEAD = 2  # pending stretches, for each slot, that are looked at for one that need not wait
COPY_RATIO = 64  # so many positions are copied, with time to spare, while one is computed

Ids = NDArray[np.int32]


class Sequences:
    """Token sequences in lexicographic order, none of them empty.

    order[i]: where the i-th of them stood in what was given. shared[i]: how many tokens it begins with in common with
    the one before it.
    """

    def __init__(self, sequences: Sequence[Ids]) -> None:
        # Big-endian bytes compare as the numbers do, and much faster than tuples.
        keys = [ids.astype(">i4").tobytes() for ids in sequences]
        self.order = sorted(range(len(sequences)), key=keys.__getitem__)
        self.ids = [sequences[i] for i in self.order]
        self.lengths = [len(ids) for ids in self.ids]
        pairs = zip(self.ids, self.ids[1:], strict=False)
        self.shared = np.array([0, *(common_prefix(a, b) for a, b in pairs)], np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def common(self, i: int, j: int) -> int:
        """How many tokens the i-th and the j-th begin with in common."""
        return self.lengths[i] if i == j else int(self.shared[min(i, j) + 1 : max(i, j) + 1].min())


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sequences first .. stop-1, to be computed one after the other in one slot.

    n_known: at most so many positions of the first may be taken from elsewhere; the rows after them are wanted.
    """

    first: int
    stop: int
    n_known: int


@dataclass(eq=False, slots=True)
class Place:
    """A slot and what it holds: the first `n` positions of the sequence `of` (-1: nothing yet).

    stretch: what is computed in it; None where it is free. age: when it was last taken, in takings.
    """

    slot: int
    of: int = -1
    n: int = 0
    stretch: Stretch | None = None
    age: int = 0


class Packing:
    """Gives the slots of a runner's cache, all of them free, to stretches of `sequences`, and says what to compute."""

    def __init__(self, runner: Runner, sequences: Sequences, stretches: Iterable[Stretch]) -> None:
        self.sequences = sequences
        self.chunk = chunk_rows(runner.spec)
        self.places = [Place(slot) for slot in range(runner.cache.n_slots)]
        self._pending = deque(stretches)
        self._runner = runner
        self._n_taken = 0

    @property
    def done(self) -> bool:
        """Whether every stretch was taken and is through."""
        return not self._pending and not self.busy()

    def busy(self) -> list[Place]:
        """The places that have a stretch, the first taken first: what is nearly through frees its slot soon."""
        return sorted((place for place in self.places if place.stretch is not None), key=lambda place: place.age)

    def fill(self) -> list[Place]:
        """Give free places to stretches that need not wait: the places that were taken, none where all must wait."""
        n_free = sum(place.stretch is None for place in self.places)
        taken: list[Place] = []
        at = 0
        while len(taken) < n_free and at < min(len(self._pending), LOOK_AHEAD * len(self.places)):
            place = self._place(self._pending[at])
            if place is None:
                at += 1
            else:
                del self._pending[at]
                taken.append(place)
        return taken

    def parts(self, room: int) -> list[tuple[Place, Ids]]:
        """What to compute next of the sequences that are not through: at most `room` tokens in all."""
        parts = []
        for place in self.busy():
            ids = self.sequences.ids[place.of][place.n : place.n + room]
            if len(ids):
                parts.append((place, ids))
                room -= len(ids)
        return parts

    def computed(self, place: Place, n: int) -> int:
        """Take note of n more positions: how many sequences of the place's stretch that completes.

        After the last one the place is free; what it holds can be used again.
        """
        place.n += n
        n_complete = 0
        while place.stretch is not None and place.n == self.sequences.lengths[place.of]:
            n_complete += 1
            if place.of + 1 == place.stretch.stop:
                place.stretch = None
            else:
                place.of += 1
                place.n = min(place.n, int(self.sequences.shared[place.of]))
        return n_complete

    def _place(self, stretch: Stretch) -> Place | None:
        """The place that the stretch now has, or None if it must wait."""
        known = [self._known(place, stretch) for place in self.places]
        planned = max((self._known(place, stretch, planned=True) for place in self.places if place.stretch), default=0)
        best = max(self.places, key=lambda place: known[place.slot])
        n_known = known[best.slot]
        if 2 * (planned - n_known) >= self.sequences.lengths[stretch.first] - n_known:
            return None  # at least half of its rows are about to be there
        free = [place for place in self.places if place.stretch is None]
        place = max(free, key=lambda place: (known[place.slot], -place.age))
        if (n_known - known[place.slot]) * COPY_RATIO > n_known:
            place = min(free, key=lambda place: place.age)
            with self._runner.lock:
                self._runner.cache.copy(best.slot, place.slot, n_known)
        else:
            n_known = known[place.slot]
        self._n_taken += 1
        place.of, place.n, place.stretch, place.age = stretch.first, n_known, stretch, self._n_taken
        return place

    def _known(self, place: Place, stretch: Stretch, planned: bool = False) -> int:
        """How many first positions of the stretch's first sequence the place holds; with `planned`, will soon hold."""
        if place.of < 0:
            return 0
        common = self.sequences.common(place.of, stretch.first)
        return min(common if planned else min(common, place.n), stretch.n_known)
