"""HWU64 and SLURP: requests to a home assistant, with intents and slots (both CC BY 4.0).

The two are tellings of one collection and share intents, slots and many texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ingle.errors import DataError
from ingle.evaluate.calls.sources.catalogue import NLU_TOOLS
from ingle.evaluate.calls.sources.files import list_of, object_of, read_json, read_lines, text_of
from ingle.evaluate.calls.sources.request import Request

__all__ = ["hwu64", "slurp"]

_NAMES = {"place_name": "place", "timeofday": "time_of_day", "house_place": "room", "general_frequency": "frequency"}
#: A slot is an argument of a tool when at least this share of the tool's requests has it; others are mislabelled.
_SHARE = 0.02
_ANNOTATED = re.compile(r"\[\s*([\w ]+?)\s*:\s*(.*?)\s*\]")


def hwu64(folder: Path) -> list[Request]:
    """The requests of hwu64_kfold1_train.json (9960, 175 at most of each intent)."""
    path = folder / "hwu64_kfold1_train.json"
    data = object_of(object_of(read_json(path), path.name).get("rasa_nlu_data"), path.name)
    return _requests(_hwu64(list_of(data.get("common_examples"), path.name), path.name), path)


def slurp(folder: Path) -> list[Request]:
    """The requests of slurp_devel.jsonl (2033)."""
    path = folder / "slurp_devel.jsonl"
    return _requests(_slurp(path), path)


_Found = tuple[str, str, list[tuple[str, str]]]  # text, intent, slots


def _hwu64(examples: list[object], where: str) -> Iterator[_Found]:
    for example in examples:
        record = object_of(example, where)
        text, slots = text_of(record.get("text"), where), []
        for entity in list_of(record.get("entities"), where):
            slot = object_of(entity, where)
            start, end = slot.get("start"), slot.get("end")
            if not isinstance(start, int) or not isinstance(end, int):
                raise DataError(f"{where} has an entity without start and end.")
            slots.append((text_of(slot.get("entity"), where), text[start:end].strip()))
        yield text, text_of(record.get("intent"), where), slots


def _slurp(path: Path) -> Iterator[_Found]:
    for record in read_lines(path):
        annotated = text_of(record.get("sentence_annotation"), path.name)
        slots = [(name, value) for name, value in _ANNOTATED.findall(annotated)]
        yield text_of(record.get("sentence"), path.name), text_of(record.get("intent"), path.name), slots


def _requests(found: Iterable[_Found], path: Path) -> list[Request]:
    """Requests of known intents. A slot twice in one request: left out, for which of the two is meant is not marked."""
    kept = []
    for text, intent, slots in found:
        text = " ".join(text.split())
        if intent in NLU_TOOLS or intent.startswith("general_"):
            named = [(_NAMES.get(name, name), " ".join(value.split())) for name, value in slots]
            if text and len({name for name, _ in named}) == len(named) and all(v and v in text for _, v in named):
                kept.append((text, intent, named))
    if not kept:
        raise DataError(f"{path} has no requests; expected the file of the data set.")
    total = Counter(intent for _, intent, _ in kept)
    seen = Counter((intent, name) for _, intent, slots in kept for name, _ in slots)
    result = []
    for text, intent, slots in kept:
        if intent not in NLU_TOOLS:
            result.append(Request(text, None, (), "talk" if intent != "general_joke" else "joke"))
            continue
        common = tuple((name, value) for name, value in slots if seen[intent, name] >= max(3, _SHARE * total[intent]))
        result.append(Request(text, NLU_TOOLS[intent].name, common, NLU_TOOLS[intent].subject))
    return result
