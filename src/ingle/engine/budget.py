"""How much memory a process may hold, and what of it is left for weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from ingle.backends.base import Backend, Streaming
from ingle.backends.machine import available_bytes, group_bytes, system_bytes
from ingle.engine.memory import MIB, Need, mib, resident_bytes
from ingle.engine.open_window import all_of, fit, least_of, open_window
from ingle.engine.window import Window
from ingle.engine.window_tuner import Tuner
from ingle.errors import MemoryLimitError, UsageError
from ingle.models.checkpoint import Checkpoint

__all__ = ["Limited", "Relief"]

_log = logging.getLogger(__name__)

# What a process comes to hold beside all that is counted: pieces on their way from the disk (2 MiB for each loader),
# stacks, what the allocator keeps, tokens and text.
RESERVE_BYTES = 16 << 20
GUESSED_PROCESS_BYTES = 96 << 20  # where the system does not say what the process holds


class Limited:
    """A window, and how much of the process's memory is its.

    What the process holds when this is made counts as the program's: the interpreter, the tokenizer, and norms and the
    like that are never read again.
    """

    def __init__(self, checkpoint: Checkpoint, backend: Backend, need: Need, positions: str) -> None:
        """need: of the cache and the buffers, of which nothing is taken yet. positions: of the cache, for messages.

        Raises UsageError for a backend that cannot, UnsupportedError for a checkpoint that is to be converted first.
        """
        if not isinstance(backend, Streaming):
            raise UsageError(
                f"A limit on memory is for the native backend; the backend {backend.name} keeps the whole model."
            )
        self.window = open_window(checkpoint, backend)
        self._relief = Relief()
        self.window.before_pass = Tuner()
        self.window.before_block = self._relief
        self._name = checkpoint.source.name
        self._need = need
        self._positions = positions
        held = resident_bytes()
        self._program_bytes = (GUESSED_PROCESS_BYTES if held is None else held) + RESERVE_BYTES

    def fit(self, memory: int, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Let the window hold what a limit on the process leaves for it.

        Raises MemoryLimitError, and changes nothing, where that is too little, or more than the system has.
        """
        need, window = self._need, self.window
        other = self._program_bytes + need.cache_bytes + need.buffers_bytes
        least = other + least_of(window)
        if memory < least:
            raise MemoryLimitError(
                f"{self._name} does not run in {mib(memory)}; {-(-least // MIB)}MiB would do: "
                f"{mib(self._program_bytes)} for the program and the tokenizer, {mib(need.cache_bytes)} for the KV "
                f"cache of {self._positions}, {mib(need.buffers_bytes)} for what is being computed, and "
                f"{mib(least_of(window))} for the weights that must be there together; a smaller context takes less."
            )
        free, more = available_bytes(), min(memory - other, all_of(window)) - window.stats().held_bytes
        if free is not None and more > free:
            raise MemoryLimitError(
                f"A limit of {mib(memory)} was given for {self._name}, and only {mib(free)} are free; give a lower "
                "one, or close other programs."
            )
        fit(window, memory - other, on_progress)
        self._relief.begin(memory)


class Relief:
    """Gives memory back when another program is about to have none: called before each block, looks twice a second."""

    LOW_BYTES = 96 << 20  # free: with less, a system begins to throw programs' pages out, and then programs
    EVERY_S = 0.5

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._looked_s = float("-inf")
        self._limit = 0
        self._group_low_bytes = 0

    def begin(self, limit: int) -> None:
        """This process may hold so much. Whether that leaves anything of its control group's limit counts from now on:
        one that allows no more than that may well be nearly full."""
        self._limit = limit
        room = group_bytes()
        spare = 0 if room is None else max(0, room - self._own())
        self._group_low_bytes = min(self.LOW_BYTES, spare // 2)

    def __call__(self, window: Window) -> None:
        now = self._clock()
        if now - self._looked_s < self.EVERY_S:
            return
        self._looked_s = now
        lacking = self._lacking()
        if lacking <= 0:
            return
        held, least = window.stats().held_bytes, least_of(window)
        target = max(least, held - lacking)
        if target >= held or not fit(window, target):
            return
        _log.warning(
            "Memory is running out on this device: the model gives %s back, and reads more from disk.",
            mib(held - window.stats().held_bytes),
        )

    def _own(self) -> int:
        """What this process may still take."""
        return max(0, self._limit - (resident_bytes() or 0))

    def _lacking(self) -> int:
        """Bytes that should be free and are not."""
        lacking = 0
        if (free := system_bytes()) is not None and free < self.LOW_BYTES:
            lacking = 2 * self.LOW_BYTES - free
        if (room := group_bytes()) is not None:
            own = min(self.LOW_BYTES, self._own())
            if room < max(own // 4, self._group_low_bytes):
                lacking = max(lacking, own + 2 * self._group_low_bytes - room)
        return lacking
