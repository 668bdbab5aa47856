"""What a window did while an answer was made: what it kept, what it read, and what the disk allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ingle.cli.console import size

if TYPE_CHECKING:
    from ingle.engine.model import Model
    from ingle.engine.token import Stats
    from ingle.engine.window import WindowStats

__all__ = ["WindowUse", "WindowWatch"]


@dataclass(frozen=True, slots=True)
class WindowUse:
    """A window during an answer; and from its first token on, None where there was none."""

    answer: WindowStats
    decoding: WindowStats | None = None

    @staticmethod
    def between(before: WindowStats, now: WindowStats, first: WindowStats | None = None) -> WindowUse:
        """What came to what there was `before`. first: when there was the first token."""
        return WindowUse(now.since(before), None if first is None else now.since(first))

    @property
    def disk_bytes_per_s(self) -> float | None:
        """What the disk gave while something was read; None where nothing was."""
        return self.answer.disk_bytes_per_s or None

    @property
    def floor_s(self) -> float | None:
        """Seconds that a token takes at least: reading what does not stay, as fast as was read; None where all stays.

        Of a mixture, what was read for a pass on average: which experts a token needs is not known beforehand.
        """
        use = self.answer if self.decoding is None or not self.decoding.passes else self.decoding
        mixture = use.expert_hits + use.expert_misses > 0
        n_bytes = use.read_bytes / max(1, use.passes) if mixture else use.streamed_bytes
        return n_bytes / use.disk_bytes_per_s if n_bytes and use.disk_bytes_per_s else None

    def as_dict(self, stats: Stats) -> dict[str, Any]:
        """All numbers by their names, for JSON. stats: of the answer."""
        took_s = stats.prefill_s + stats.decode_s
        known = asdict(self.answer)
        del known["in_passes_s"], known["reading_in_passes_s"]  # which the window tunes itself by
        return {
            **known,
            "disk_bytes_per_s": self.disk_bytes_per_s,
            "waited_share": min(1.0, self.answer.waited_s / took_s) if took_s > 0 else None,
            "floor_s_per_token": self.floor_s,
            "s_per_token": 1 / stats.decode_tokens_per_s if stats.decode_tokens_per_s else None,
        }

    def lines(self, stats: Stats) -> list[tuple[str, str]]:
        """(what, value), for people."""
        known, use = self.as_dict(stats), self.answer
        stay = f"{size(use.pinned_bytes)} of weights stay in memory"
        if not use.streamed_bytes and not use.expert_misses:
            return [("window", f"all {stay}; nothing is read from disk")]
        if use.streamed_bytes:
            stay += f", {size(use.streamed_bytes)} are read for each token through {size(use.ring_bytes)}"
        if use.experts_bytes:
            asked = use.expert_hits + use.expert_misses
            hits = f", which had {use.expert_hits / asked:.0%} of those asked for" if asked else ""
            stay += f"; experts go through {size(use.experts_bytes)}{hits}"
        found = [("window", stay)]
        disk = f"{size(use.read_bytes)} read"
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
