"""CLINC150: requests of 150 intents without slots, and requests that belong to none of them (CC BY 3.0)."""

from __future__ import annotations

from pathlib import Path

from ingle.errors import DataError
from ingle.evaluate.calls.sources.catalogue import CLINC_SUBJECTS, CLINC_TOOLS
from ingle.evaluate.calls.sources.files import list_of, object_of, read_json, text_of
from ingle.evaluate.calls.sources.request import Request

__all__ = ["OUT_OF_SCOPE", "in_scope", "out_of_scope"]

OUT_OF_SCOPE = "oos"


def in_scope(folder: Path) -> list[Request]:
    """The requests of the 150 intents. Where the intent has no tool here, the tool is None."""
    found = []
    for text, intent in _rows(folder, ("train", "val", "test")):
        entry = CLINC_TOOLS.get(intent)
        subject = entry.subject if entry else CLINC_SUBJECTS.get(intent, intent)
        found.append(Request(text, entry.name if entry else None, (), subject))
    return found


def out_of_scope(folder: Path, part: str) -> list[Request]:
    """The requests that belong to no intent, of the data set's own `part`: train (100), val (100) or test (1000)."""
    return [Request(text, None, (), OUT_OF_SCOPE) for text, _ in _rows(folder, (f"{OUT_OF_SCOPE}_{part}",))]


def _rows(folder: Path, parts: tuple[str, ...]) -> list[tuple[str, str]]:
    path = folder / "clinc150_data_full.json"
    data = object_of(read_json(path), path.name)
    rows = []
    for part in parts:
        for row in list_of(data.get(part), f"{path.name}, {part}"):
            values = [text_of(value, path.name) for value in list_of(row, path.name)]
            if len(values) != 2:
                raise DataError(
                    f"{path.name}, {part}, has a row of {len(values)} values; expected a text and its intent."
                )
            rows.append((" ".join(values[0].split()), values[1]))
    return rows
