"""Which blocks stay in memory and which are read again for each pass, by how much memory there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ingle.backends.base import BlockSource

__all__ = ["AHEAD", "Unit", "WindowPlan", "least_bytes", "least_ring_bytes", "make_plan"]

# Beside the block that is computed there is to be room for what is read meanwhile. Memory is some times as fast as a
# disk, so a part of a block is enough to begin with; see `ingle.engine.window_tuner`.
AHEAD = 1 / 3
GRAIN = 1 << 14  # bytes: sizes are rounded up to this where it is decided what fits together


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A block that is held or read as a whole. In each of `runs` a pass uses it at the positions first, first + 2, ...,
    last: what is used again at once is read once."""

    name: str
    source: BlockSource
    runs: tuple[tuple[int, int], ...]

    @property
    def n_bytes(self) -> int:
        """What it takes in memory."""
        return sum(self.source.sizes)


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """pinned: indices of the units that stay. ring_bytes: room for the others, as they come."""

    pinned: frozenset[int]
    ring_bytes: int
    pinned_bytes: int
    streamed_bytes: int  # of files, for one pass

    @property
    def n_bytes(self) -> int:
        """What all takes in memory."""
        return self.pinned_bytes + self.ring_bytes


def make_plan(
    units: Sequence[Unit], n_bytes: int, held: Collection[int] = (), ahead: float = AHEAD
) -> WindowPlan | None:
    """The plan that reads the least in a pass; None where `n_bytes` are too few for any.

    held: units that are in memory now: of blocks that are alike these are pinned first. ahead: how much of the largest
    streamed block the ring has room for beside what is being computed.
    Where the ring must hold the largest of the streamed blocks, it may pay to pin all of the large ones and have a
    small ring: each such choice is tried.
    """
    best = None
    for largest in sorted({unit.n_bytes for unit in units} | {0}):
        plan = _plan_below(units, largest, n_bytes, held, ahead)
        if plan is not None and (best is None or plan.streamed_bytes < best.streamed_bytes):
            best = plan
    return best


def least_bytes(units: Sequence[Unit]) -> int:
    """With so many bytes there is a plan."""
    everything = sum(unit.n_bytes for unit in units)
    choices = [everything]
    for largest in {unit.n_bytes for unit in units}:
        pinned = {i for i, unit in enumerate(units) if unit.n_bytes > largest}
        choices.append(sum(units[i].n_bytes for i in pinned) + least_ring_bytes(units, pinned))
    return min(choices)


def least_ring_bytes(units: Sequence[Unit], pinned: Collection[int]) -> int:
    """A ring in which what a pass holds at one time finds place, wherever in the ring that begins."""
    held: dict[int, int] = defaultdict(int)
    longest = 0
    for i, unit in enumerate(units):
        if i in pinned:
            continue
        longest = max(longest, *unit.source.sizes)
        for first, last in unit.runs:
            for position in range(first, last + 1):
                held[position] += unit.n_bytes
    return max(held.values(), default=0) + longest


def _plan_below(
    units: Sequence[Unit], largest: int, n_bytes: int, held: Collection[int], ahead: float
) -> WindowPlan | None:
    """The best plan that pins every unit larger than `largest`."""
    pinned = {i for i, unit in enumerate(units) if unit.n_bytes > largest}
    rest = [i for i in range(len(units)) if i not in pinned]
    least = least_ring_bytes(units, pinned)
    room = n_bytes - sum(units[i].n_bytes for i in pinned)
    if room >= sum(units[i].n_bytes for i in rest):
        pinned.update(rest)
        return _finished(units, pinned, 0)
    if room < least:
        return None
    ring = min(room, least + int(ahead * largest))
    for reads in sorted({len(units[i].runs) for i in rest}, reverse=True):  # most often read, best kept
        alike = [i for i in rest if len(units[i].runs) == reads]
        chosen = _fill([units[i].n_bytes for i in alike], room - ring)
        for size, n in chosen.items():
            pinned.update(_spread([i for i in alike if units[i].n_bytes == size], n, held))
            room -= n * size
    return _finished(units, pinned, room)


def _finished(units: Sequence[Unit], pinned: Collection[int], room: int) -> WindowPlan:
    """What no block fits into is the ring's."""
    streamed = [unit for i, unit in enumerate(units) if i not in pinned]
    most = sum(unit.n_bytes * len(unit.runs) for unit in streamed)
    return WindowPlan(
        frozenset(pinned),
        min(room, most + max((max(unit.source.sizes) for unit in streamed), default=0)) if streamed else 0,
        sum(units[i].n_bytes for i in pinned),
        sum(unit.source.file_bytes * len(unit.runs) for unit in streamed),
    )


def _fill(sizes: Sequence[int], room: int) -> dict[int, int]:
    """How many of each size together take the most of `room`: {size: how many}.

    The sums that can be made are the bits of one number: with a size more, they are those and all of them moved up.
    """
    grains = [-(-size // GRAIN) for size in sizes]
    room //= GRAIN
    if room <= 0:
        return {}
    reachable = [1]
    within = (1 << (room + 1)) - 1
    for size in grains:
        reachable.append(reachable[-1] | (reachable[-1] << size & within))
    total = reachable[-1].bit_length() - 1
    chosen: dict[int, int] = defaultdict(int)
    for k in range(len(sizes), 0, -1):
        if not reachable[k - 1] >> total & 1:
            chosen[sizes[k - 1]] += 1
            total -= grains[k - 1]
    return chosen


def _spread(alike: Sequence[int], n: int, held: Collection[int]) -> list[int]:
    """`n` of them, evenly over the pass: then the disk has something to do all the time."""
    there = [i for i in alike if i in held]
    if n < len(there):
        alike = there
    elif there:
        return there + _spread([i for i in alike if i not in held], n - len(there), ())
    return [alike[(2 * k + 1) * len(alike) // (2 * n)] for k in range(n)]
