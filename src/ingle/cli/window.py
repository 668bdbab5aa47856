"""What a window did while an answer was made: what it kept, what it read, and what the disk allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ingle.cli.console import size

if TYPE_CHECKING:
    from ingle.engine.model import Model
    from ingle.engine.token import Stats
    from ingle.engine.window import WindowStats

__all__ = ["WindowUse", "WindowWatch"]


_SIZES = ("pinned_bytes", "ring_bytes", "experts_bytes", "streamed_bytes")  # which do not add up


@dataclass(frozen=True, slots=True)
class WindowUse:
    """A window during an answer; the names are those of `WindowStats`, and what it counts is of the answer alone.

    decoding: the same from the first token on; None where there was none.
    """

    pinned_bytes: int
    ring_bytes: int
    experts_bytes: int
    streamed_bytes: int
    read_bytes: int
    reading_s: float
    waited_s: float
    passes: int
    expert_hits: int
    expert_misses: int
    decoding: WindowUse | None = None

    @staticmethod
    def between(before: WindowStats, now: WindowStats, first: WindowStats | None = None) -> WindowUse:
        """What came to what there was `before`. first: when there was the first token."""
        names = [field.name for field in fields(WindowUse) if field.name != "decoding"]
        counts = {name: getattr(now, name) - (0 if name in _SIZES else getattr(before, name)) for name in names}
        return WindowUse(**counts, decoding=None if first is None else WindowUse.between(first, now))

    @property
    def disk_bytes_per_s(self) -> float | None:
        """What the disk gave while something was read; None where nothing was."""
        return self.read_bytes / self.reading_s if self.read_bytes and self.reading_s > 0 else None

    @property
    def floor_s(self) -> float | None:
        """Seconds that a token takes at least: reading what does not stay, as fast as was read; None where all stays.

        Of a mixture, what was read for a pass on average: which experts a token needs is not known beforehand.
        """
        use = self if self.decoding is None or not self.decoding.passes else self.decoding
        mixture = use.expert_hits + use.expert_misses > 0
        n_bytes = use.read_bytes / max(1, use.passes) if mixture else use.streamed_bytes
        rate = use.disk_bytes_per_s
        return n_bytes / rate if n_bytes and rate else None

    def as_dict(self, stats: Stats) -> dict[str, Any]:
        """All numbers by their names, for JSON. stats: of the answer."""
        took_s = stats.prefill_s + stats.decode_s
        known = asdict(self)
        del known["decoding"]
        return {
            **known,
            "disk_bytes_per_s": self.disk_bytes_per_s,
            "waited_share": min(1.0, self.waited_s / took_s) if took_s > 0 else None,
            "floor_s_per_token": self.floor_s,
            "s_per_token": 1 / stats.decode_tokens_per_s if stats.decode_tokens_per_s else None,
        }

    def lines(self, stats: Stats) -> list[tuple[str, str]]:
        """(what, value), for people."""
        known = self.as_dict(stats)
        stay = f"{size(self.pinned_bytes)} of weights stay in memory"
        if not self.streamed_bytes and not self.expert_misses:
            return [("window", f"all {stay}; nothing is read from disk")]
        if self.streamed_bytes:
            stay += f", {size(self.streamed_bytes)} are read for each token through {size(self.ring_bytes)}"
        if self.experts_bytes:
            asked = self.expert_hits + self.expert_misses
            hits = f", which had {self.expert_hits / asked:.0%} of those asked for" if asked else ""
            stay += f"; experts go through {size(self.experts_bytes)}{hits}"
        found = [("window", stay)]
        disk = f"{size(self.read_bytes)} read"
        if self.disk_bytes_per_s is not None:
            disk += f" at {size(self.disk_bytes_per_s)}/s"
        if known["waited_share"] is not None:
            disk += f"; {known['waited_share']:.0%} of the answer's time was waiting for it"
        found.append(("disk", disk))
        floor_s, token_s = self.floor_s, known["s_per_token"]
        if floor_s is not None:
            reached = f"; a token took {token_s:,.3f} s, the floor is {floor_s / token_s:.0%} of it" if token_s else ""
            found.append(("floor", f"{floor_s:,.3f} s a token for reading{reached}"))
        return found


class WindowWatch:
    """A `with` around an answer; `use` tells then what the model's window did. None for one that is in memory whole."""

    def __init__(self, model: Model) -> None:
        self._window = model.window
        self._first: WindowStats | None = None
        self.use: WindowUse | None = None

    def __enter__(self) -> WindowWatch:
        self._before = None if self._window is None else self._window.stats()
        return self

    def token(self) -> None:
        """There is a token."""
        if self._window is not None and self._first is None:
            self._first = self._window.stats()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._window is not None and self._before is not None:
            self.use = WindowUse.between(self._before, self._window.stats(), self._first)
