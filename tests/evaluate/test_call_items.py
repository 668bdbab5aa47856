"""Files of one's own API-calling items: what is written is read, and what is not sound is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingle.errors import DataError
from ingle.evaluate.calls import item as module
from ingle.evaluate.calls.item import Expected, Item, read_items, write_items
from ingle.text.tools import Tool

ALARM = Tool("set_alarm", "Wake me.", {"type": "object", "properties": {"time": {"type": "string"}}})
SAID = {"role": "user", "content": "Wake me at six, José"}
ITEMS = [
    Item("1", "mine", (SAID,), (ALARM,), (Expected("set_alarm", {"time": ("six", "6:00"), "label": ("", None)}),)),
    Item("2", "mine", ({"role": "system", "content": "Be brief."}, SAID), (ALARM,)),
    Item("3", "others", (SAID,), ()),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", ITEMS)
    assert read_items(tmp_path / "items.jsonl") == ITEMS


def test_what_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("\n" + json.dumps({"messages": [SAID]}) + "\n\n")
    assert read_items(path) == [Item("items.jsonl, line 2", "items", (SAID,), ())]


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"messages": []}, "line 2 has no messages"),
        ({"messages": [{"role": "user"}]}, "line 2 has no messages"),
        ({"messages": "wake me"}, "line 2 has no messages"),
        ({"tools": 5}, "line 2 has .* where expected was a list of tools"),
        ({"tools": [{"name": ""}]}, "line 2, tool 1 has the name ''"),
        ({"tools": []}, "expects a call of 'set_alarm', which is none of its tools"),
        ({"expected": {}}, "expected calls that are dict"),
        ({"expected": [5]}, "an expected call that is none"),
        ({"expected": [{"name": "set_alarm", "arguments": {"time": "six"}}]}, "no list of right values"),
    ],
)
def test_items_that_are_not_sound(change: dict[str, Any], about: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(ITEMS[0].to_dict()) + "\n" + json.dumps({**ITEMS[0].to_dict(), **change}) + "\n")
    with pytest.raises(DataError, match=about):
        read_items(path)


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"", "has no items"),
        (b"{", "line 1 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b"\xff", "line 1 is not JSON"),
        (b"5", "line 1 is int; expected a JSON object"),
        (b" " * (1 << 20) + b"5", "line 1 has more than 1,048,576 bytes"),
    ],
)
def test_files_that_are_not_sound(content: bytes, about: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=about):
        read_items(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_items(tmp_path)


def test_a_file_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is bounded in all, not by the line alone."""
    path = tmp_path / "items.jsonl"
    write_items(path, ITEMS)
    monkeypatch.setattr(module, "_MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match="has more than 760 bytes"):
        read_items(path)
    monkeypatch.setattr(module, "_MAX_BYTES", path.stat().st_size)
    assert len(read_items(path)) == 3
