"""Other tools for the same requests: names, arguments, types and descriptions as other callers would write them.

A model that has only seen one schema learns the schema; one that sees a new one each time has to read it.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
VERBS: Mapping[str, Sequence[str]] = _DATA["verbs"]
NOUNS: Mapping[str, Sequence[str]] = _DATA["nouns"]
ARGUMENTS: Mapping[str, Sequence[str]] = _DATA["arguments"]
WHOLE_NUMBERS = frozenset(_DATA["whole_numbers"])
NUMERALS: Mapping[str, int] = {word: number for number, word in enumerate(_DATA["numerals"])}


@dataclass(frozen=True)
class Shown:
    """A tool as this caller writes it. arguments: our argument's name to the caller's; absent: not offered."""

    name: str
    description: str
    properties: dict[str, dict[str, Any]]
    arguments: Mapping[str, str] = field(default_factory=dict)

    def call(self, slots: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
        """The call for a request's slots, arguments in the schema's order; None where a value has not its type."""
        values: dict[str, Any] = {}
        for name, value in slots:
            if name not in self.arguments:
                continue
            schema = self.properties[self.arguments[name]]
            if schema.get("type") == "integer":
                number = whole(value)
                if number is None:
                    return None
                values[self.arguments[name]] = number
            elif "enum" in schema and value.lower() not in schema["enum"]:
                return None
            else:
                values[self.arguments[name]] = value.lower() if "enum" in schema else value
        return {"name": self.name, "arguments": {name: values[name] for name in self.properties if name in values}}


def whole(text: str) -> int | None:
    """
    >>> whole("four"), whole("12"), whole("noon")
    (4, 12, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else NUMERALS.get(text.lower())


def renamed(name: str, rng: random.Random) -> str:
    """A tool's name in other words."""
    for _ in range(4):
        verb, _, noun = name.partition("_")
        if name in NOUNS:
            new = rng.choice(NOUNS[name])
        else:
            verb = rng.choice((verb, *VERBS.get(verb, ())))
            parts = [rng.choice((part, *NOUNS.get(part, ()))) for part in noun.split("_") if part]
            new = "_".join([*parts, verb] if parts and rng.random() < 0.2 else [verb, *parts])
        if new != name:
            return new
    return name


def styled(name: str, style: str) -> str:
    if style == "camel":
        return re.sub(r"_(\w)", lambda match: match[1].upper(), name)
    if style == "dotted":
        return name.replace("_", ".", 1)
    return name.title().replace("_", "") if style == "pascal" else name


def vary(
    name: str, description: str, arguments: Sequence[str], values: Mapping[str, Sequence[str]], rng: random.Random
) -> Shown:
    """One caller's version of a tool. values: some values of each argument, from which fixed lists are made."""
    kept = [argument for argument in arguments if rng.random() > 0.12]
    if rng.random() < 0.5:
        rng.shuffle(kept)
    new_names: dict[str, str] = {}
    for argument in kept:
        other = rng.choice(ARGUMENTS[argument]) if argument in ARGUMENTS and rng.random() < 0.4 else argument
        new_names[argument] = argument if other in new_names.values() or other in kept else other
    properties: dict[str, dict[str, Any]] = {}
    for argument, new in new_names.items():
        schema: dict[str, Any] = {"type": "string"}
        if argument in WHOLE_NUMBERS and rng.random() < 0.5:
            schema = {"type": "integer"}
        elif len(set(map(str.lower, values.get(argument, ())))) >= 2 and rng.random() < 0.1:
            some = sorted({value.lower() for value in values[argument]})
            if max(map(len, some)) < 24:
                schema = {"type": "string", "enum": sorted(rng.sample(some, min(len(some), rng.randint(2, 6))))}
        properties[new] = schema
    chosen = renamed(name, rng) if rng.random() < 0.5 else name
    kind = rng.random()
    said = description if kind < 0.6 else "" if kind < 0.8 else description.rstrip(".").lower()
    return Shown(chosen, said, properties, new_names)
