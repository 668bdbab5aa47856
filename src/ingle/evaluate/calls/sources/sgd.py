"""Schema-Guided Dialogue (Rastogi et al., arXiv 1909.05855; CC BY-SA 4.0): what people open a dialogue with.

Only first turns: what they ask for and the slots they name can be told from that turn alone. The services of the test
part are partly of kinds that the training part lacks (messaging, payment, trains, alarms): tools nobody trained on.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ingle.errors import DataError
from ingle.evaluate.calls.sources.files import list_of, object_of, read_json, read_lines, text_of
from ingle.evaluate.calls.sources.request import Request
from ingle.text.tools import Tool

__all__ = ["PARTS", "requests", "snake", "tools"]

PARTS = ("train", "dev", "test")


def snake(name: str) -> str:
    """
    >>> snake("FindRestaurants")
    'find_restaurants'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def tools(folder: Path, part: str) -> dict[str, list[Tool]]:
    """The tools of each service of a part. Arguments whose values are a fixed list are left out: the data does not
    mark where a request names one.
    """
    path = folder / f"sgd_schema_{part}.json"
    found: dict[str, list[Tool]] = {}
    for entry in list_of(read_json(path), path.name):
        service = object_of(entry, path.name)
        slots: dict[str, dict[str, Any]] = {}
        for value in list_of(service.get("slots"), path.name):
            slot = object_of(value, path.name)
            slots[text_of(slot.get("name"), path.name)] = slot
        here = found.setdefault(text_of(service.get("service_name"), path.name), [])
        for value in list_of(service.get("intents"), path.name):
            intent = object_of(value, path.name)
            required = [text_of(name, path.name) for name in list_of(intent.get("required_slots"), path.name)]
            names = [*required, *object_of(intent.get("optional_slots"), path.name)]
            free = {
                name: {"type": "string", "description": str(slots[name].get("description", ""))}
                for name in names
                if name in slots and not slots[name].get("is_categorical")
            }
            here.append(
                Tool(
                    snake(text_of(intent.get("name"), path.name)),
                    str(intent.get("description", "")).rstrip(".") + ".",
                    {"type": "object", "properties": free},
                )
            )
    return found


def requests(folder: Path, part: str) -> list[tuple[str, Request]]:
    """First turns as (service, request); slots that the intent does not have are left out."""
    path = folder / "sgd_compact.jsonl.xz"
    offered = {s: {t.name: set(t.parameters["properties"]) for t in ts} for s, ts in tools(folder, part).items()}
    found = []
    for record in read_lines(path):
        if record.get("split") != part:
            continue
        turns = list_of(record.get("turns"), path.name)
        if not turns:
            raise DataError(f"{path.name} has a dialogue without turns; get the data set anew.")
        turn = object_of(turns[0], path.name)
        text = " ".join(text_of(turn.get("u"), path.name).split())
        name = snake(str(turn.get("intent")))
        named = [text_of(service, path.name) for service in list_of(record.get("services"), path.name)]
        services = [service for service in named if name in offered.get(service, ())]
        slots = [_slot(row, path.name) for row in list_of(turn.get("slots", []), path.name)]
        if len(services) != 1 or len({slot for slot, _ in slots}) != len(slots):
            continue
        known = offered[services[0]][name]
        if all(value in text for _, value in slots):
            here = tuple((slot, value) for slot, value in slots if slot in known)
            found.append((services[0], Request(text, name, here, services[0].rpartition("_")[0].lower())))
    if not found:
        raise DataError(f"{path} has no dialogues of the part {part!r}; expected {', '.join(PARTS)}.")
    return found


def _slot(row: object, where: str) -> tuple[str, str]:
    """(slot, value) from a row [value, slot]."""
    values = [text_of(value, where) for value in list_of(row, where)]
    if len(values) != 2:
        raise DataError(f"{where} has a slot of {len(values)} values; expected its value and its name.")
    return values[1], " ".join(values[0].split())
