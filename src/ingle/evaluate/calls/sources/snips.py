"""SNIPS: seven intents of a voice assistant, about 2000 requests each, with slots (CC0)."""

from __future__ import annotations

from pathlib import Path

from ingle.errors import DataError
from ingle.evaluate.calls.sources.catalogue import SNIPS_TOOLS
from ingle.evaluate.calls.sources.files import list_of, object_of, read_json, text_of
from ingle.evaluate.calls.sources.request import Request

__all__ = ["requests"]

#: Words in the data that are no good argument names.
_NAMES = {"timeRange": "time_range", "poi": "place", "geographic_poi": "place", "object_part_of_series_type": "series"}


def requests(folder: Path) -> list[Request]:
    """All requests of `folder`/snips/train_*_full.json. One slot twice in a request: the request is left out."""
    found = []
    for intent, entry in SNIPS_TOOLS.items():
        path = folder / "snips" / f"train_{intent}_full.json"
        rows = list_of(object_of(read_json(path), str(path)).get(intent), f"{path.name}, {intent}")
        for row in rows:
            parts = [object_of(p, path.name) for p in list_of(object_of(row, path.name).get("data"), path.name)]
            text = " ".join("".join(text_of(part.get("text"), path.name) for part in parts).split())
            slots = [
                (_NAMES.get(str(part["entity"]), str(part["entity"])), " ".join(str(part["text"]).split()))
                for part in parts
                if part.get("entity") is not None
            ]
            if text and len({name for name, _ in slots}) == len(slots) and all(value in text for _, value in slots):
                found.append(Request(text, entry.name, tuple(slots), entry.subject))
    if not found:
        raise DataError(f"{folder}/snips has no requests; expected the files of SNIPS.")
    return found
