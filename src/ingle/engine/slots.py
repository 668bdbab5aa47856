"""Which sequence is in which slot of the KV cache, and what of it can be used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from threading import RLock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Cache
from ingle.errors import BackendError

__all__ = ["Reuse", "Slot", "Slots", "common_prefix"]

Reuse = Literal["all", "exact", "none"]


@dataclass(eq=False, slots=True)
class Slot:
    """One sequence's place in the cache. `tokens[i]` is the token whose keys and values stand at position i.

    n_exact: so many first positions were computed in whole chunks, by the calls that a new prompt is computed with.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    n_exact: int = 0
    busy: bool = False
    used: int = 0  # when it was last taken, in takings; 0 = never


class Slots:
    """Lends the cache's slots to sequences, each to one at a time, with as much of the prompt in it as is known.

    A returned slot keeps its tokens. The next sequence with the same beginning continues there (or takes a copy of the
    beginning, when the rest of the slot is worth keeping); the slot unused for longest makes way for anything else.

    A backend may compute a row a little differently alone than among others (matrix tiles have other roundings). What
    is to be repeated bit for bit may therefore use only what was computed by the same calls: reuse "exact".
    """

    def __init__(self, cache: Cache, lock: RLock, chunk: int) -> None:
        """`lock` guards the cache against the runner's calls. chunk: rows of a prompt that one call computes."""
        self._cache = cache
        self._lock = lock
        self.chunk = chunk
        self._slots = [Slot(index) for index in range(cache.n_slots)]
        self._takings = count(1)

    def __len__(self) -> int:
        return len(self._slots)

    @contextmanager
    def lend(self, prompt: Sequence[int], reuse: Reuse = "all") -> Iterator[Slot]:
        """A free slot whose tokens are a true prefix of `prompt`, until the end of the `with`.

        At least the prompt's last token is never in it, so that there is a row whose logits can be asked for.
        Raises BackendError when every slot is lent.
        """
        slot = self.take(prompt, reuse)
        try:
            yield slot
        finally:
            self.give_back(slot)

    def take(self, prompt: Sequence[int], reuse: Reuse = "all") -> Slot:
        """As `lend`, until `give_back`."""
        with self._lock:
            return self._take(prompt, reuse)

    def give_back(self, slot: Slot) -> None:
        """The slot is free. It keeps its tokens, for who comes with the same beginning."""
        slot.busy = False

    @property
    def n_free(self) -> int:
        """How many are not lent."""
        return sum(not slot.busy for slot in self._slots)

    def known(self, prompt: Sequence[int], reuse: Reuse = "all") -> int:
        """How many first positions of the prompt some slot has for it."""
        with self._lock:
            return max(self._known(slot, prompt, reuse) for slot in self._slots)

    @contextmanager
    def lend_all(self) -> Iterator[None]:
        """Every slot at once, until the end of the `with`: whoever takes them says what is where. They are empty after.

        Raises BackendError while any slot is lent.
        """
        with self._lock:
            n_busy = sum(slot.busy for slot in self._slots)
            if n_busy:
                raise BackendError(
                    f"{n_busy} of the model's {len(self)} KV cache slots are in use by answers that have not ended; "
                    "read them to their end, or close() them, before many sequences are computed together."
                )
            for slot in self._slots:
                slot.tokens.clear()
                slot.n_exact = 0
                slot.busy = True
        try:
            yield
        finally:
            for slot in self._slots:
                slot.busy = False

    def _take(self, prompt: Sequence[int], reuse: Reuse) -> Slot:
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            n = len(self._slots)
            slots = "The model's only KV cache slot is" if n == 1 else f"All {n} KV cache slots are"
            raise BackendError(
                f"{slots} in use by answers that have not ended; read them to their end, close() one, or load the "
                f"model with n_slots={2 * n}."
            )
        oldest = min(free, key=lambda slot: (slot.used, slot.index))
        known = {slot.index: self._known(slot, prompt, reuse) for slot in self._slots}
        best = max(self._slots, key=lambda slot: (known[slot.index], not slot.busy, -slot.index))
        n_known = known[best.index]
        # Continue in place where little is lost: the slot's tokens after the common beginning are overwritten.
        if best in free and (best is oldest or (n_known and 2 * n_known >= len(best.tokens))):
            slot = best
        else:
            slot = oldest
            slot.tokens.clear()  # before the copy: an interrupted copy must not pass for what the slot held
            if n_known:
                self._cache.copy(best.index, slot.index, n_known)
                slot.tokens.extend(best.tokens[:n_known])
        slot.n_exact = min(best.n_exact, n_known) // self.chunk * self.chunk
        del slot.tokens[n_known:]
        slot.busy = True
        slot.used = next(self._takings)
        return slot

    def _known(self, slot: Slot, prompt: Sequence[int], reuse: Reuse) -> int:
        """How many first positions of the slot the prompt can use; never its last token's."""
        if reuse == "none":
            return 0
        n = common_prefix(slot.tokens, prompt[:-1])
        return n if reuse == "all" else min(n, slot.n_exact) // self.chunk * self.chunk


def common_prefix(a: Sequence[int] | NDArray[np.int32], b: Sequence[int] | NDArray[np.int32]) -> int:
    """How many tokens two sequences begin with in common."""
    n = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:n], dtype=np.int64) != np.asarray(b[:n], dtype=np.int64))
    return int(different[0]) if len(different) else n
