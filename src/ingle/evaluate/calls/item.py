"""One request of an API-calling test: what is said, the tools at hand, and the calls that would be right.

As JSON Lines, one object a line:

    {"id": "alarm-1", "source": "mine", "messages": [{"role": "user", "content": "wake me at six"}],
     "tools": [{"name": "set_alarm", "description": "...", "parameters": {JSON Schema}}],
     "expected": [{"name": "set_alarm", "arguments": {"time": ["six", "6:00"], "label": ["", "wake up"]}}]}

Each argument has the list of values that are right; "" or null among them means that it may be left out. An empty
`expected` means that no tool fits and nothing should be called. (The form of BFCL's answers, Patil et al., 2025.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingle.errors import DataError, UsageError
from ingle.files import json_objects, write_whole
from ingle.text.chat import ROLES
from ingle.text.tools import Tool, read_tools

__all__ = ["Expected", "Item", "read_items", "write_items"]

_MAX_LINE = 2**20  # bytes of one item
_MAX_BYTES = 2**28  # of a file


@dataclass(frozen=True, slots=True)
class Expected:
    """A right call: its tool, and for each argument the values that are right ("" or None: it may be absent)."""

    name: str
    arguments: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Item:
    """One request. `expected` empty: no tool fits, and nothing should be called."""

    id: str
    source: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Tool, ...]
    expected: tuple[Expected, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "id": self.id,
            "source": self.source,
            "messages": [dict(message) for message in self.messages],
            "tools": [tool.as_openai()["function"] for tool in self.tools],
            "expected": [
                {"name": call.name, "arguments": {name: list(values) for name, values in call.arguments.items()}}
                for call in self.expected
            ],
        }


def read_items(path: Path) -> list[Item]:
    """The items of a JSON Lines file. Raises DataError that names the line of the first that is not sound."""
    try:
        with path.open("rb") as file:
            items = [_item(record, where) for where, record in json_objects(file, path.name, _MAX_LINE, _MAX_BYTES)]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if not items:
        raise DataError(f"{path} has no items; expected a JSON object on each line.")
    return items


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write a JSON Lines file that `read_items` reads. Raises OSError."""
    write_whole(path, "".join(json.dumps(item.to_dict(), ensure_ascii=False) + "\n" for item in items))


def _item(record: Mapping[str, Any], where: str) -> Item:
    messages, expected = record.get("messages"), record.get("expected", [])
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise DataError(f"{where} has no messages; expected objects with content and a role: {', '.join(ROLES)}.")
    if not isinstance(expected, list):
        raise DataError(f"{where} has expected calls that are {type(expected).__name__}; expected a list.")
    try:
        tools = read_tools(record.get("tools"), where)
    except UsageError as error:
        raise DataError(str(error)) from None
    calls = tuple(_expected(call, where) for call in expected)
    known = {tool.name for tool in tools}
    for call in calls:
        if call.name not in known:
            raise DataError(f"{where} expects a call of {call.name!r}, which is none of its tools.")
    return Item(str(record.get("id", where)), str(record.get("source", "items")), tuple(messages), tuple(tools), calls)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and value.get("role") in ROLES and isinstance(value.get("content"), str)


def _expected(value: object, where: str) -> Expected:
    name, arguments = (value.get("name"), value.get("arguments", {})) if isinstance(value, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise DataError(f"{where} has an expected call that is none; expected an object with name and arguments.")
    if not all(isinstance(values, list) for values in arguments.values()):
        raise DataError(f"{where} gives an argument that has no list of right values.")
    return Expected(name, {key: tuple(values) for key, values in arguments.items()})
