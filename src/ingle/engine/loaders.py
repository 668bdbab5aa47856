"""Threads that read blocks from disk, off the computing threads.

All of them help at the same matrix, so that the block that is wanted next is whole soonest, and go on to the next one
without waiting for each other. Several, because a disk is fastest with several reads under way, and because one thread
rearranges what it has read while others read.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ingle.backends.base import BlockSource, Reading

if TYPE_CHECKING:
    from ingle.engine.trace import Trace

__all__ = ["Load", "Loaders"]

N_LOADERS = 4  # with pieces of 1 MiB: as fast as more, and a half faster than one on a virtual disk


class Load:
    """One block on its way into a room. Its fields belong to the lock of its `Loaders`.

    take(n_bytes): where the next matrix goes, or None while there is no room.
    """

    def __init__(self, source: BlockSource, room: Any, take: Callable[[int], int | None]) -> None:
        self.source = source
        self.room = room
        self.take = take
        self.readings: list[Reading] = []
        self.error: Exception | None = None
        self.cancelled = False
        self.n_helpers = 0  # threads that are reading for it
        self.has_pieces = False  # the newest matrix has pieces that nobody has begun
        self.counted: set[int] = set()  # matrices whose bytes are counted as read

    @property
    def begun(self) -> bool:
        """No matrix is left to begin."""
        return len(self.readings) == len(self.source.sizes)

    @property
    def idle(self) -> bool:
        """Nobody writes into its place: it is ready, failed, or cancelled."""
        return self.n_helpers == 0 and (self.cancelled or self.error is not None or self.ready)

    @property
    def ready(self) -> bool:
        """All of it is there."""
        return self.begun and not self.has_pieces and self.n_helpers == 0 and self.error is None and not self.cancelled

    def cancel(self) -> None:
        """Read no more of it than what is being read."""
        self.cancelled = True
        if self.readings:
            self.readings[-1].cancel()


class Loaders:
    """Some threads that read `Load`s: urgent ones first, then those that `next_load` gives.

    `changed` guards all of it; it is told when a load has become ready or has failed. Whoever makes room, or gives
    `next_load` something to give, must tell it too. next_load is called with the lock held; None = nothing now.
    """

    def __init__(self, n_threads: int = N_LOADERS) -> None:
        self.changed = Condition()
        self.next_load: Callable[[], Load | None] = lambda: None
        self.trace: Trace | None = None
        self.read_bytes = 0  # of files, so far
        self._reading_s = 0.0
        self._n_reading = 0
        self._reading_since = 0.0
        self._urgent: deque[Load] = deque()
        self._current: Load | None = None  # of `next_load`'s, the one that has matrices to begin
        self._closed = False
        _end_at_exit(self)
        self._threads = [Thread(target=self._run, name=f"ingle-loader-{i}", daemon=True) for i in range(n_threads)]
        for thread in self._threads:
            thread.start()

    @property
    def reading_s(self) -> float:
        """Seconds in which at least one thread was reading or rearranging."""
        with self.changed:
            return self._reading_s + (perf_counter() - self._reading_since if self._n_reading else 0.0)

    def add(self, load: Load) -> None:
        """Read this before anything else, after others that were added. Call with the lock held."""
        self._urgent.append(load)
        self.changed.notify_all()

    def wait(self, load: Load) -> None:
        """Until a load is ready. Call with the lock held. Raises its error where it failed."""
        while not load.ready:
            if load.error is not None:
                raise load.error
            self.changed.wait()

    def drop(self, loads: list[Load]) -> None:
        """Cancel loads and wait until nobody writes into their place. Call with the lock held."""
        for load in loads:
            load.cancel()
        if self._current in loads:
            self._current = None
        while any(load.n_helpers for load in loads):
            self.changed.wait()

    def stop(self) -> None:
        """Let the threads end, after the pieces that they are at."""
        with self.changed:
            self._closed = True
            for load in (*self._urgent, *([self._current] if self._current else [])):
                load.cancel()
            self.changed.notify_all()

    def close(self) -> None:
        """End the threads."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _work(self) -> tuple[Load, Reading] | None:
        """Something to help at."""
        while self._urgent:
            if (reading := self._open(self._urgent[0])) is not None:
                return self._urgent[0], reading
            self._urgent.popleft()
        while True:
            if self._current is None:
                self._current = self.next_load()
                if self._current is None:
                    return None
            if (reading := self._open(self._current)) is not None:
                return self._current, reading
            if not self._current.begun and not self._current.cancelled and self._current.error is None:
                return None  # no room
            self._current = None

    def _open(self, load: Load) -> Reading | None:
        """A matrix of the load with pieces to begin; None where there is none, or no room for it."""
        if load.cancelled or load.error is not None:
            return None
        if load.has_pieces:
            return load.readings[-1]
        if load.begun:
            return None
        index = len(load.readings)
        at = load.take(load.source.sizes[index])
        if at is None:
            return None
        try:
            load.readings.append(load.source.begin(index, load.room, at))
        except Exception as error:  # for whoever waits for the load, not for this thread
            load.error = error
            self.changed.notify_all()
            return None
        load.has_pieces = True
        self.changed.notify_all()  # others can help
        return load.readings[-1]

    def _run(self) -> None:
        while True:
            with self.changed:
                while (work := None if self._closed else self._work()) is None:
                    if self._closed:
                        return
                    self.changed.wait()
                load, reading = work
                load.n_helpers += 1
                self._n_reading += 1
                began = perf_counter()
                if self._n_reading == 1:
                    self._reading_since = began
            error = None
            try:
                reading.help()
            except Exception as failed:
                error = failed
            ended = perf_counter()
            with self.changed:
                self._n_reading -= 1
                if not self._n_reading:
                    self._reading_s += ended - self._reading_since
                load.n_helpers -= 1
                if load.readings[-1] is reading:
                    load.has_pieces = False
                if error is not None and load.error is None:
                    load.error = error
                n_bytes = 0
                if reading.done and (index := load.readings.index(reading)) not in load.counted:
                    load.counted.add(index)
                    self.read_bytes += (n_bytes := reading.file_bytes)
                if load.idle:
                    self.changed.notify_all()
                trace = self.trace
            if trace is not None:
                trace.add("read", reading.name, began, ended, n_bytes=n_bytes)


_running: WeakSet[Loaders] = WeakSet()


def _end_at_exit(loaders: Loaders) -> None:
    """A thread that comes back from native code to an interpreter that is going ends the process with an abort."""
    if not _running:
        atexit.unregister(_end_all)
        atexit.register(_end_all)
    _running.add(loaders)


def _end_all() -> None:
    for loaders in list(_running):
        loaders.close()
