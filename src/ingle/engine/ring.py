"""Room for what comes and goes in one order: each piece lies after the one before, and the oldest goes first."""

from __future__ import annotations

__all__ = ["Ring"]


class Ring:
    """Says where in `n_bytes` of memory the next piece lies. A piece is never cut: what is left before the end is
    skipped where it is too short, so pieces of n bytes together find place in n and the length of the longest more.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        # Both only rise; a place is what remains of them after division by n_bytes.
        self._begin = 0  # of the oldest piece
        self._end = 0  # of the newest

    @property
    def mark(self) -> int:
        """Where the newest piece ends: give it to `release` when everything up to it may go."""
        return self._end

    def take(self, n_bytes: int) -> int | None:
        """The offset of the next piece, or None while there is no room for it."""
        if self._begin == self._end:  # nothing is kept: no reason to begin in the middle
            self._begin = self._end = -(-self._end // max(1, self.n_bytes)) * self.n_bytes
        at = self._end % self.n_bytes if self.n_bytes else 0
        skipped = self.n_bytes - at if at + n_bytes > self.n_bytes else 0
        if self._end + skipped + n_bytes - self._begin > self.n_bytes:
            return None
        self._end += skipped + n_bytes
        return 0 if skipped else at

    def release(self, mark: int) -> None:
        """Everything up to a mark may be written over."""
        self._begin = max(self._begin, mark)
