"""The experts of a mixture: read when a router has chosen them, and the hot ones kept.

Places are all of one size. A new expert takes the place of the one that was used least often so far; among those used
equally often (give or take one) of the one used last. For a mixture that uses its experts evenly a pass is a cycle, and
of a cycle one keeps most by letting go of what was just used. Counts are halved now and then: what was hot may cool.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ingle.backends.base import BlockSource
from ingle.engine.loaders import Load, Loaders

__all__ = ["LEAST_PLACES", "Experts"]

LEAST_PLACES = 2  # one that is computed, one that is read
AHEAD = 4  # experts that are on their way at once: each has few pieces, and the disk wants several
HALVED_AFTER = 4096  # uses of a layer's mixture

Key = tuple[int, int]  # layer, number of the expert


@dataclass(slots=True, eq=False)
class _Place:
    """Room for one expert."""

    at: int
    key: Key | None = None
    load: Load | None = None  # on its way
    block: Any = None  # ready
    used: int = 0  # when, in uses


class Experts:
    """Gives experts to `feed_forward`, from `n_places` places in memory. See `ingle.backends.base.UseExperts`."""

    def __init__(
        self, sources: Mapping[int, Sequence[BlockSource]], new_room: Callable[[int], Any], loaders: Loaders
    ) -> None:
        """sources: of each layer that is a mixture, all its experts. Nothing is held before `apply`."""
        self.place_bytes = max(sum(source.sizes) for experts in sources.values() for source in experts)
        self.n_experts = sum(len(experts) for experts in sources.values())
        self.hits = 0
        self.misses = 0
        self.waited_s = 0.0
        self._sources = sources
        self._new_room = new_room
        self._loaders = loaders
        self._room: Any = None
        self._places: list[_Place] = []
        self._of: dict[Key, _Place] = {}
        self._counts: Counter[Key] = Counter()
        self._uses = 0

    @property
    def n_bytes(self) -> int:
        """What the places take."""
        return len(self._places) * self.place_bytes

    def apply(self, n_places: int) -> None:
        """Have so many places, all empty where that is another number than before."""
        if n_places == len(self._places):
            return
        self._of.clear()
        self._places = []
        self._room = None  # before the new one is taken
        self._room = self._new_room(n_places * self.place_bytes) if n_places else None
        self._places = [_Place(i * self.place_bytes) for i in range(n_places)]

    def use(self, layer: int, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Each of the experts in turn, while others are read. Raises GGUFError when one cannot be read."""
        self._uses += 1
        if self._uses % HALVED_AFTER == 0:
            self._counts = Counter({key: count // 2 for key, count in self._counts.items() if count > 1})
        keys = [(layer, number) for number in numbers]
        hits = sum(key in self._of for key in keys)
        self.hits += hits
        self.misses += len(keys) - hits
        self._counts.update(keys)
        try:
            for index, key in enumerate(keys):
                self._read_ahead(keys[index:])
                yield key[1], self._ready(key)
                self._of[key].used = self._uses
        finally:
            self._give_up()

    def _read_ahead(self, keys: Sequence[Key]) -> None:
        """Begin to read what is missing, as far as there are places for it."""
        wanted = set(keys)
        n_under_way = sum(place.load is not None for place in self._places_of(keys))
        for key in keys:
            if key in self._of:
                continue
            if n_under_way >= AHEAD:
                return
            place = self._place_for(wanted)
            if place is None and key == keys[0]:  # all that is there is wanted later: what is wanted last, goes
                place = next(p for p in reversed(self._places_of(keys)) if p.load is None)
            if place is None:
                return
            if place.key is not None:
                del self._of[place.key]
            source = self._sources[key[0]][key[1]]
            ends = deque(place.at + sum(source.sizes[:i]) for i in range(len(source.sizes)))
            place.key, place.block = key, None
            place.load = Load(source, self._room, lambda n_bytes, ends=ends: ends.popleft())  # type: ignore[misc]
            self._of[key] = place
            n_under_way += 1
            with self._loaders.changed:
                self._loaders.add(place.load)

    def _places_of(self, keys: Sequence[Key]) -> list[_Place]:
        return [self._of[key] for key in keys if key in self._of]

    def _place_for(self, wanted: set[Key]) -> _Place | None:
        """A place whose expert may go: one that is not wanted now."""
        candidates = [place for place in self._places if place.load is None and place.key not in wanted]
        if not candidates:
            return None
        counts = [-1 if place.key is None else self._counts[place.key] for place in candidates]
        least = min(counts)
        rare = [place for place, count in zip(candidates, counts, strict=True) if count <= max(least, 0) + 1]
        empty = [place for place in rare if place.key is None]
        return empty[0] if empty else max(rare, key=lambda place: place.used)

    def _ready(self, key: Key) -> Any:
        place = self._of[key]
        if place.load is not None:
            began = perf_counter()
            try:
                with self._loaders.changed:
                    self._loaders.wait(place.load)
                place.block = place.load.source.make(place.load.readings)
            except Exception:
                self._forget(place)
                raise
            place.load = None
            ended = perf_counter()
            self.waited_s += ended - began
            if self._loaders.trace is not None:
                self._loaders.trace.add("wait", f"expert {key[0]}.{key[1]}", began, ended)
        return place.block

    def _give_up(self) -> None:
        """What is still under way will not be used now: stopped in the middle."""
        for place in self._places:
            if place.load is not None:
                self._forget(place)

    def _forget(self, place: _Place) -> None:
        """The place is empty, when nobody writes into it any more."""
        assert place.load is not None
        assert place.key is not None
        with self._loaders.changed:
            self._loaders.drop([place.load])
        del self._of[place.key]
        place.key = place.load = place.block = None
