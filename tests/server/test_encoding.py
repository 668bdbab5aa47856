"""Server-sent events as bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingle.server.encoding import Frame, event

TEXTS = ["", "a", 'say "x"\\', "line\nend\r\n", "\u2028 \u2029 \x85", "é😀", "\ud83d", "\0\x1f"]


def value(text: str) -> dict[str, Any]:
    return {"id": "x", "choices": [{"delta": {"content": text}, "finish_reason": None}]}


@pytest.mark.parametrize("text", TEXTS)
def test_a_frame_writes_what_an_event_is(text: str) -> None:
    assert Frame(value).event(text) == event(value(text))


@pytest.mark.parametrize("text", TEXTS)
def test_an_event_is_one_line_of_json(text: str) -> None:
    data = event(value(text)).decode()
    (line,) = data.removesuffix("\n\n").splitlines()
    assert json.loads(line.removeprefix("data: ")) == value(text.replace("\ud83d", "?"))
