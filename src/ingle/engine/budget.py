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

# What a process comes to hold beside all that is counted: pieces on their way from the disk (1.2 MiB for each loader),
# stacks, what the allocator keeps, tokens and text.
RESERVE_BYTES = 12 << 20
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
        self.window.before_pass += [self._relief, Tuner()]
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
        self._relief.limit = memory


class Relief:
    """Gives memory back when another program is about to have none: called before each pass, looks once a second.

    limit: what the process was allowed, when it was; a control group that allows as much may well be nearly full.
    """

    LOW_BYTES = 96 << 20  # free: with less, a system begins to throw programs' pages out, and then programs
    EVERY_S = 1.0

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.limit = 0
        self._clock = clock
        self._looked_s = float("-inf")

    def __call__(self, window: Window) -> None:
        now = self._clock()
        if now - self._looked_s < self.EVERY_S:
            return
        self._looked_s = now
        lacking = self._lacking()
        held, least = window.stats().held_bytes, least_of(window)
        target = max(least, held - lacking)
        if lacking <= 0 or target >= held or not fit(window, target):
            return
        _log.warning(
            "Memory is running out on this device: the model gives %s back, and reads more from disk.",
            mib(held - window.stats().held_bytes),
        )

    def _lacking(self) -> int:
        """Bytes that should be free and are not."""
        lacking = 0
        if (free := system_bytes()) is not None and free < self.LOW_BYTES:
            lacking = 2 * self.LOW_BYTES - free
        if (room := group_bytes()) is not None:
            # What this process has not taken yet of its own is to be left by the others of the group.
            own = min(self.LOW_BYTES, max(0, self.limit - (resident_bytes() or 0)))
            if room < own // 4:
                lacking = max(lacking, own - room)
        return lacking
