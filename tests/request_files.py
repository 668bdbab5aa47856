"""The public data sets of requests: which they are, and miniatures of them, written as their files are."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from ingle.evaluate.calls.sources import SOURCES, SPOKEN
from ingle.evaluate.calls.sources.catalogue import SNIPS_TOOLS
from ingle.evaluate.calls.sources.request import Split, split_of
from shared_data import needs

#: The sources whose items are requests that we hold out of data sets, and the mark of a test that needs all of these.
HELD_OUT = list(SPOKEN)
there = needs(*dict.fromkeys(f"api_calls/{file}" for name in HELD_OUT for file in SOURCES[name][0]))

HWU64, SLURP, CLINC = "hwu64_kfold1_train.json", "slurp_devel.jsonl", "clinc150_data_full.json"
SGD = "sgd_compact.jsonl.xz"


def numbers(sentence: str, split: Split) -> Iterator[int]:
    """Numbers for the {} of a sentence with which it is in a split."""
    return (number for number in count(100) if split_of(sentence.format(number)) == split)


def in_split(sentence: str, split: Split, n: int) -> list[str]:
    return [sentence.format(number) for number in islice(numbers(sentence, split), n)]


def snips_row(*parts: str | tuple[str, str]) -> dict[str, Any]:
    """Words, or (words, slot)."""
    return {"data": [{"text": p} if isinstance(p, str) else {"text": p[0], "entity": p[1]} for p in parts]}


def write_snips(folder: Path, rows: dict[str, list[Any]]) -> None:
    (folder / "snips").mkdir(parents=True, exist_ok=True)
    for intent in SNIPS_TOOLS:
        data = {intent: rows.get(intent, [])}
        (folder / "snips" / f"train_{intent}_full.json").write_text(json.dumps(data))


def hwu_example(text: str, intent: str, **slots: str) -> dict[str, Any]:
    entities = [
        {"entity": name, "value": value, "start": text.index(value), "end": text.index(value) + len(value)}
        for name, value in slots.items()
    ]
    return {"text": text, "intent": intent, "entities": entities}


def write_hwu64(folder: Path, examples: list[Any]) -> None:
    (folder / HWU64).write_text(json.dumps({"rasa_nlu_data": {"common_examples": examples}}))


def slurp_row(annotated: str, intent: str) -> dict[str, str]:
    """From "wake me at [time : six]"."""
    plain = " ".join(part.rpartition(" : ")[2] for part in annotated.replace("]", "[").split("["))
    return {"sentence": " ".join(plain.split()), "sentence_annotation": annotated, "intent": intent}


def write_lines(path: Path, records: list[Any]) -> None:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)


def write_clinc(folder: Path, **parts: list[Any]) -> None:
    names = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
    (folder / CLINC).write_text(json.dumps({name: parts.get(name, []) for name in names}))


def service(name: str, intent: str, required: list[str], optional: list[str], categorical: str = "") -> dict[str, Any]:
    slots = [
        {"name": slot, "description": f"The {slot}", "is_categorical": slot == categorical}
        for slot in [*required, *optional]
    ]
    intents = [
        {
            "name": intent,
            "description": f"{intent} it",
            "required_slots": required,
            "optional_slots": dict.fromkeys(optional, ""),
        }
    ]
    return {"service_name": name, "description": "", "slots": slots, "intents": intents}


def dialogue(part: str, where: str, intent: str, text: str, **slots: str) -> dict[str, Any]:
    opening = {"s": "U", "u": text, "intent": intent, "slots": [[value, name] for name, value in slots.items()]}
    return {"id": "1", "split": part, "services": [where], "turns": [opening, {"s": "S", "u": "Where?"}]}


def write_sgd(folder: Path, schemas: dict[str, list[Any]], dialogues: list[Any]) -> None:
    for part in ("train", "dev", "test"):
        (folder / f"sgd_schema_{part}.json").write_text(json.dumps(schemas.get(part, [])))
    write_lines(folder / SGD, dialogues)


def write_all(folder: Path) -> None:
    """Some requests of each data set and each split."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    snips = {intent: [snips_row(f"{intent} for ", ("two", "number"))] for intent in SNIPS_TOOLS}
    for split in splits:
        texts = islice(numbers("play {} now", split), 3)
        snips["PlayMusic"] += [snips_row("play ", (str(number), "track"), " now") for number in texts]
    write_snips(folder, snips)
    hwu, slurp = [], []
    for split in splits:
        for number in islice(numbers("wake me at {}", split), 4):
            hwu.append(hwu_example(f"wake me at {number}", "alarm_set", time=str(number)))
            slurp.append(slurp_row(f"Wake me at [time : {number}]!", "alarm_set"))
        hwu += [hwu_example(text, "general_quirky") for text in in_split("you are {}", split, 2)]
    write_hwu64(folder, hwu)
    write_lines(folder / SLURP, slurp)
    clinc = [[text, "payday"] for split in splits for text in in_split("is it payday in {}", split, 2)]
    nobody = {f"oos_{part}": [[f"why is {part} so", "oos"]] for part in ("train", "val", "test")}
    write_clinc(folder, train=clinc, **nobody)
    schemas = {
        "train": [
            service("Buses_1", "FindBus", ["to"], ["day", "fare"], "fare"),
            service("Homes_1", "FindHome", [], ["area"]),
        ],
        "test": [service("Buses_3", "FindBus", ["to"], ["day"]), service("Alarm_1", "GetAlarms", [], [])],
    }
    dialogues = [
        dialogue("train", "Buses_1", "FindBus", "A bus to Oslo", to="Oslo", fare="bus"),
        dialogue("test", "Buses_3", "FindBus", "A bus to Rome  on Friday", to="Rome", day="Friday"),
        dialogue("test", "Alarm_1", "GetAlarms", "My alarms"),
    ]
    write_sgd(folder, schemas | {"dev": schemas["train"]}, dialogues)
