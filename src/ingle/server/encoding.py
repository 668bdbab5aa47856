"""JSON and server-sent events as bytes."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["DONE", "event", "json_bytes"]

DONE = b"data: [DONE]\n\n"
_LINE_ENDS = [character.encode() for character in ("\u2028", "\u2029", "\x85")]


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which JSON can spell but UTF-8 cannot, becomes "?"."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event, in one line."""
    data = json_bytes(value)
    for end in _LINE_ENDS:  # ends of lines to some readers of events, though not by the standard
        data = data.replace(end, json.dumps(end.decode()).strip('"').encode())
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return head + b"data: " + data + b"\n\n"
