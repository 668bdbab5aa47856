"""A store of blocks for models that memory does not hold: some stay, the others are read ahead of the computation.

A pass uses the blocks in a fixed order, over and over. A cache that keeps what was used last keeps nothing of such a
cycle; so what stays is decided beforehand (`window_plan`), and everything else goes through a ring: loader threads fill
it as far as there is room, block after block, from the end of a pass on into the next one, and a block's place is free
as soon as it was computed. See arXiv 2410.00531 for the idea of a sliding window; there a window of two blocks never
reads while it computes, because the block before stays until the one after has begun.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from time import perf_counter
from types import TracebackType
from typing import Any
from weakref import WeakMethod, finalize

from ingle.backends.base import BlockSource
from ingle.engine.experts import Experts
from ingle.engine.loaders import Load, Loaders
from ingle.engine.ring import Ring
from ingle.engine.trace import Trace
from ingle.engine.window_plan import AHEAD, Unit, WindowPlan
from ingle.errors import UsageError

__all__ = ["Window", "WindowStats"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WindowStats:
    """What a window holds and has done so far. Sizes in memory, but for the bytes that are read of files.

    streamed_bytes: read for one token, of a mixture only what is not the experts'. waited_s: the computing thread
    waited for blocks. reading_s: some loader was at work. in_passes_s: from the begin of each pass to its last block,
    and reading_in_passes_s of that with a loader at work.
    """

    pinned_bytes: int
    ring_bytes: int
    experts_bytes: int
    streamed_bytes: int
    read_bytes: int
    reading_s: float
    waited_s: float
    passes: int
    expert_hits: int = 0
    expert_misses: int = 0
    in_passes_s: float = 0.0
    reading_in_passes_s: float = 0.0

    def since(self, before: WindowStats) -> WindowStats:
        """What was done since `before`; sizes as they are now."""
        sizes = ("pinned_bytes", "ring_bytes", "experts_bytes", "streamed_bytes")
        counted = [field.name for field in fields(self) if field.name not in sizes]
        return replace(self, **{name: getattr(self, name) - getattr(before, name) for name in counted})

    @property
    def held_bytes(self) -> int:
        """Memory for weights."""
        return self.pinned_bytes + self.ring_bytes + self.experts_bytes

    @property
    def disk_bytes_per_s(self) -> float:
        """What was read, by the time in which something was; 0 where nothing was."""
        return self.read_bytes / self.reading_s if self.reading_s > 0 else 0.0


class _Use:
    """One position of a pass. A class and not a @contextmanager: the loop enters one for every block."""

    __slots__ = ("_position", "_window")

    def __init__(self, window: Window, position: int) -> None:
        self._window = window
        self._position = position

    def __enter__(self) -> Any:
        return self._window.acquire(self._position)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._window.release(self._position)


class Window:
    """A store of weights within a number of bytes; see `ingle.engine.weights.Weights`.

    `units` are the blocks that may stay or come and go; their runs are positions of a pass: 2P blocks, then the slices
    of the output matrix. A unit's position in `fixed` has its block there instead: always in memory.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        n_blocks: int,
        n_slices: int,
        *,
        embedding: Any,
        new_room: Callable[[int], Any],
        fixed: dict[int, Any] | None = None,
        loaders: Loaders,
        experts: Experts | None = None,
        link: Callable[[Sequence[Any]], Any] | None = None,
    ) -> None:
        """link: makes one of all blocks, see `ingle.backends.base.Linking`.

        Nothing is read before `apply`. The window closes the loaders, which it shares with the experts.
        """
        self.embedding = embedding
        self.linked: Any = None  # blocks come and go
        self.units = units
        self.experts = experts
        self._link = link
        self.before_pass: Callable[[Window], None] | None = None
        self.before_block: Callable[[Window], None] | None = None
        self.n_bytes = 0  # what may be held
        self.ahead = AHEAD
        self._n_blocks = n_blocks
        self._n_slices = n_slices
        self._new_room = new_room
        self._fixed = fixed or {}
        self._uses = [_Use(self, position) for position in range(n_blocks + n_slices)]
        # Between two passes' attentions is a feed-forward.
        self._unit_of = {
            position: i
            for i, unit in enumerate(units)
            for first, last in unit.runs
            for position in range(first, last + 1, 2)
        }
        self._plan = WindowPlan(frozenset(), 0, 0, 0)
        self._pinned: dict[int, Any] = {}  # by unit
        self._blocks: dict[int, Any] = {}  # of streamed units, made from the load that is there
        # Streamed loads of a pass in order: (unit, first position, last position).
        self._order: list[tuple[int, int, int]] = []
        self._last_of: dict[int, int] = {}  # position at which a load may go: which of the order
        self._passes = 0
        self._waited_s = 0.0
        self._in_passes_s = self._reading_in_passes_s = 0.0
        self._began = (0.0, 0.0)  # the pass: when, and how long loaders had read until then
        self._last = 0  # position of the pass
        self._closed = False
        # From here on under the lock of the loaders.
        self._ring = Ring(0)
        self._room: Any = None
        self._ahead: deque[tuple[int, int, Load, list[int]]] = deque()  # (pass, which of the order, load, its mark)
        self._next = (1, 0)  # what is read after those: (pass, which of the order)
        self._logits = False  # the current pass asks for outputs
        self._flushing = False
        self._loaders = loaders
        # The threads live as long as the window, not the other way round.
        next_load = WeakMethod(self._next_load)
        loaders.next_load = lambda: None if (ask := next_load()) is None else ask()
        finalize(self, loaders.stop)

    @property
    def plan(self) -> WindowPlan:
        """What is held."""
        return self._plan

    @property
    def trace(self) -> Trace | None:
        """What is told when something was read or waited for."""
        return self._loaders.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._loaders.trace = trace

    def stats(self) -> WindowStats:
        """The numbers so far."""
        experts = self.experts
        return WindowStats(
            pinned_bytes=self._plan.pinned_bytes,
            ring_bytes=self._plan.ring_bytes,
            experts_bytes=0 if experts is None else experts.n_bytes,
            streamed_bytes=self._plan.streamed_bytes,
            read_bytes=self._loaders.read_bytes,
            reading_s=self._loaders.reading_s,
            waited_s=self._waited_s + (0.0 if experts is None else experts.waited_s),
            passes=self._passes,
            expert_hits=0 if experts is None else experts.hits,
            expert_misses=0 if experts is None else experts.misses,
            in_passes_s=self._in_passes_s,
            reading_in_passes_s=self._reading_in_passes_s,
        )

    def apply(self, plan: WindowPlan, on_block: Callable[[int, int], None] | None = None) -> None:
        """Hold what a plan says, and let go of what it does not. Only while no block is in use.

        on_block(done, total) is told after each newly pinned block; what it raises ends this, and the plan is applied
        as far as it came.
        """
        loaders = self._loaders
        self.linked = None
        with loaders.changed:
            self._flush((self._passes + 1, 0))
            for unit in set(self._pinned) - plan.pinned:
                del self._pinned[unit]
            self._ring, self._room = Ring(0), None  # before others take memory
        missing = sorted(plan.pinned - set(self._pinned))
        for done, unit in enumerate(missing):
            self._pinned[unit] = self._load(self.units[unit].source)
            if on_block is not None:
                on_block(done + 1, len(missing))
        order = [
            (unit, first, last)
            for unit in range(len(self.units))
            if unit not in plan.pinned
            for first, last in self.units[unit].runs
        ]
        order.sort(key=lambda load: load[1])
        with loaders.changed:
            self._plan = plan
            self._order = order
            self._last_of = {last: which for which, (_, _, last) in enumerate(order)}
            self._ring = Ring(plan.ring_bytes)
            self._room = self._new_room(plan.ring_bytes) if plan.ring_bytes else None
            loaders.changed.notify_all()
        if self._link is not None and not order:
            self.linked = self._link([self._pinned[self._unit_of[position]] for position in range(self._n_blocks)])

    def begin(self, logits: bool) -> None:
        """A pass begins: all blocks are asked for, in order, and then the outputs where `logits` says so."""
        if self.before_pass is not None:
            self.before_pass(self)
        if self.before_block is not None:  # where blocks are linked, they are not asked for one by one
            self.before_block(self)
        loaders = self._loaders
        with loaders.changed:
            if self._closed:
                raise UsageError("The model was closed; load it again.")
            ahead = self._ahead[0][:2] if self._ahead else self._next
            if ahead != (self._passes + 1, 0) or any(load.cancelled for _, _, load, _ in self._ahead):
                self._flush((self._passes + 1, 0))  # the pass before ended early, or was interrupted
            self._passes += 1
            self._logits = logits
            loaders.changed.notify_all()
            self._last = len(self._uses) - 1 if logits else self._n_blocks - 1
            self._began = (perf_counter(), loaders.reading_s)

    def block(self, index: int) -> AbstractContextManager[Any]:
        """Block `index` of 2P: attention and feed-forward take turns."""
        return self._uses[index]

    def outputs(self) -> Iterator[Any]:
        """The slices of the output matrix."""
        for use in self._uses[self._n_blocks :]:
            with use as output:
                yield output

    def acquire(self, position: int) -> Any:
        """The block at a position, until `release`. Waits for it. Raises GGUFError when it cannot be read."""
        if self.before_block is not None:
            self.before_block(self)
        if position in self._fixed:
            return self._fixed[position]
        unit = self._unit_of[position]
        block = self._pinned.get(unit) or self._blocks.get(unit)
        if block is None:
            began = perf_counter()
            block = self._blocks[unit] = self._arrived(unit, position)
            ended = perf_counter()
            self._waited_s += ended - began
            if self.trace is not None:
                self.trace.add("wait", self.units[unit].name, began, ended)
        return block

    def release(self, position: int) -> None:
        """The block is not needed any more, unless another position of its run follows."""
        if position == self._last:
            self._in_passes_s += perf_counter() - self._began[0]
            self._reading_in_passes_s += self._loaders.reading_s - self._began[1]
        which = self._last_of.get(position)
        if which is None:
            return
        with self._loaders.changed:
            self._blocks.pop(self._order[which][0], None)
            if self._ahead and self._ahead[0][:2] == (self._passes, which):
                self._ring.release(self._ahead.popleft()[3][0])
                self._loaders.changed.notify_all()

    def close(self) -> None:
        """End the threads and let go of the memory."""
        self._closed = True
        self.linked = None
        self._loaders.close()
        self._pinned.clear()
        self._blocks.clear()
        self._ahead.clear()
        self._fixed.clear()
        self._room = self.embedding = self.experts = None

    def _arrived(self, unit: int, position: int) -> Any:
        """The block of a streamed unit, when all of it is there."""
        which = next(i for i, (u, first, last) in enumerate(self._order) if u == unit and first <= position <= last)
        with self._loaders.changed:
            load = next((load for number, i, load, _ in self._ahead if (number, i) == (self._passes, which)), None)
            if load is None and self._next != (self._passes, which):
                self._flush((self._passes, which))
                self._loaders.changed.notify_all()
            while load is None:
                self._loaders.changed.wait()
                load = next((load for number, i, load, _ in self._ahead if (number, i) == (self._passes, which)), None)
            try:
                self._loaders.wait(load)
                return load.source.make(load.readings)
            except Exception:
                self._flush((self._passes + 1, 0))  # the next pass tries again
                raise

    def _load(self, source: BlockSource) -> Any:
        """A block in memory of its own."""
        room = self._new_room(sum(source.sizes))
        ends = iter([sum(source.sizes[:i]) for i in range(len(source.sizes))])
        load = Load(source, room, lambda n_bytes: next(ends))
        with self._loaders.changed:
            self._loaders.add(load)
            try:
                self._loaders.wait(load)
            except BaseException:
                self._loaders.drop([load])
                raise
        return source.make(load.readings)

    def _next_load(self) -> Load | None:
        """What to read after what was read: the lock is held."""
        number, which = self._next
        if not self._order or self._room is None or self._flushing:
            return None
        if any(load.error is not None for _, _, load, _ in self._ahead):
            return None  # whoever waits for it is told; nothing behind it will be asked for
        if which == len(self._order):
            number, which = number + 1, 0
        unit, first, _ = self._order[which]
        if first >= self._n_blocks:  # an output: will it be asked for?
            if number > self._passes:
                return None
            if not self._logits:
                number, which = number + 1, 0
                unit, first, _ = self._order[0]
                if first >= self._n_blocks:
                    return None
        if number > self._passes + 1:
            return None
        self._next = (number, which + 1)
        ring, mark = self._ring, [0]

        def take(n_bytes: int) -> int | None:
            at = ring.take(n_bytes)
            mark[0] = ring.mark
            return at

        load = Load(self.units[unit].source, self._room, take)
        self._ahead.append((number, which, load, mark))
        self._loaders.changed.notify_all()
        return load

    def _flush(self, following: tuple[int, int]) -> None:
        """Give up what was read ahead, and go on with (pass, which of the order). The lock is held."""
        self._flushing = True  # waiting for threads gives the lock away
        try:
            self._loaders.drop([load for _, _, load, _ in self._ahead])
        finally:
            self._flushing = False
        self._ahead.clear()
        self._blocks.clear()
        self._ring = Ring(self._ring.n_bytes)
        self._next = following
