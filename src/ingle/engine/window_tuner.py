"""How much is read ahead: as little as keeps the disk busy, found out while computing."""

from __future__ import annotations

from ingle.engine.open_window import fit
from ingle.engine.window import Window, WindowStats

__all__ = ["Tuner"]


class Tuner:
    """Called before each pass. Where the disk stood still for want of room, and the computation waited for it later,
    the ring gets more room, and what is pinned gets less.

    That is so where computing a block takes longer than reading the next one, and the one after is waited for: on slow
    processors with fast disks. Where the disk is always at work, or nobody waits for it, nothing is to be gained.
    """

    SHARE = 0.05  # of a pass: so much standing still, and so much waiting, is worth a change
    JUDGED_S = 2.0  # of passes, and at least so many:
    JUDGED_PASSES = 4
    STEP, MOST = 1 / 3, 2.0  # of the largest block that is streamed

    def __init__(self) -> None:
        self._since: WindowStats | None = None

    def __call__(self, window: Window) -> None:
        now = window.stats()
        since = self._since
        if since is None or since.ring_bytes != now.ring_bytes:
            self._since = now
            return
        time_s = now.in_passes_s - since.in_passes_s
        if time_s < self.JUDGED_S or now.passes - since.passes < self.JUDGED_PASSES:
            return
        self._since = now
        still_s = time_s - (now.reading_in_passes_s - since.reading_in_passes_s)
        waited_s = now.waited_s - since.waited_s
        if min(still_s, waited_s) < self.SHARE * time_s or not now.streamed_bytes or window.ahead >= self.MOST:
            return
        before = window.ahead
        window.ahead = before + self.STEP
        if not fit(window, window.n_bytes):  # the least has room for no more
            window.ahead = before
