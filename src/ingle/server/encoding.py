"""JSON and server-sent events as bytes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

__all__ = ["DONE", "Frame", "event", "json_bytes"]

DONE = b"data: [DONE]\n\n"
# Ends of lines to some readers of events, though not by the standard.
_LINE_ENDS = [(end.encode(), json.dumps(end).strip('"').encode()) for end in ("\u2028", "\u2029", "\x85")]
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which JSON can spell but UTF-8 cannot, becomes "?"."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event, in one line."""
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return head + b"data: " + _in_one_line(value) + b"\n\n"


class Frame:
    """Events that differ in one string alone: what stands around it is written once, and not for every token."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        """make: the value of the event that has a string; it stands there once."""
        mark = secrets.token_hex(16)
        self._before, self._after = event(make(mark)).split(json_bytes(mark))

    def event(self, text: str) -> bytes:
        """The event with this string."""
        return self._before + _in_one_line(text) + self._after


def _in_one_line(value: Any) -> bytes:
    data = json_bytes(value)
    for end, escaped in _LINE_ENDS:
        if end in data:
            data = data.replace(end, escaped)
    return data
