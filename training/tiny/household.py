"""Requests around the house and the phone, written for ingle-tiny (household.toml): sentences with places for values.

They bring what the public sets lack: numbers, fixed choices, messages in the user's words, several rooms and devices.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vary import NUMERALS

_DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
DAYS: Sequence[str] = _DATA["calendar"]["days"]
MONTHS: Sequence[str] = _DATA["calendar"]["months"]
HOURS = list(NUMERALS)[1:]  # one to twelve

#: Values to draw from, or how to draw one.
Values = Sequence[str] | Callable[[random.Random], str]


@dataclass(frozen=True)
class Household:
    """A tool with its sentences (their form: household.toml)."""

    name: str
    subject: str
    description: str
    properties: Mapping[str, dict[str, Any]]
    sentences: Sequence[str]


def _tool(name: str, table: Mapping[str, Any]) -> Household:
    properties = {
        argument: {"type": kind} if isinstance(kind, str) else {"type": "string", "enum": kind}
        for argument, kind in table["arguments"].items()
    }
    return Household(name, table["subject"], table["description"], properties, table["sentences"])


TOOLS = tuple(_tool(name, table) for name, table in _DATA["tools"].items())


def clock(rng: random.Random) -> str:
    hour = rng.randint(1, 12)
    word = HOURS[hour - 1]
    return rng.choice(
        (
            f"{hour}:{rng.randint(0, 59):02d}",
            f"{hour} am",
            f"{hour} pm",
            f"{hour}:{rng.choice(('00', '15', '30', '45'))} am",
            f"{hour}:{rng.choice(('05', '10', '20', '30', '40'))} pm",
            f"{hour} o'clock",
            word,
            f"half past {word}",
            f"{word} thirty",
            "noon",
            "midnight",
            f"{hour}",
            f"quarter to {word}",
            f"{word} am",
            f"{rng.randint(13, 23)}:{rng.randint(0, 59):02d}",
            f"{word} in the morning",
        )
    )


def day(rng: random.Random) -> str:
    return rng.choice(
        (
            "tomorrow",
            "today",
            "tonight",
            f"on {rng.choice(DAYS)}",
            f"next {rng.choice(DAYS)}",
            rng.choice(DAYS),
            "tomorrow morning",
            "tomorrow evening",
            "this weekend",
            f"on {rng.choice(MONTHS)} {rng.randint(1, 28)}",
            f"on the {rng.randint(4, 20)}th",
            "next week",
            "the day after tomorrow",
            "tomorrow",
            "this afternoon",
        )
    )


def number(low: int, high: int) -> Callable[[random.Random], str]:
    """Draws from low to high, as digits or (1 to 12) as a word."""

    def draw(rng: random.Random) -> str:
        value = rng.randint(low, high)
        return HOURS[value - 1] if 1 <= value <= 12 and rng.random() < 0.3 else str(value)

    return draw


def _values(table: Mapping[str, Sequence[str] | str]) -> dict[str, Values]:
    """A table of values; a name stands for the values of that argument."""
    return {name: _DATA["values"][found] if isinstance(found, str) else found for name, found in table.items()}


VALUES: Mapping[str, Values] = {
    "time": clock,
    "date": day,
    **{name: number(*limits) for name, limits in _DATA["numbers"].items()},
    **_values(_DATA["values"]),
}
#: By tool: where an argument's name means something else.
VALUES_OF: Mapping[str, Mapping[str, Values]] = {tool: _values(table) for tool, table in _DATA["values_of"].items()}


def request(tool: Household, rng: random.Random, phrases: list[str]) -> tuple[str, dict[str, Any]]:
    """A sentence and the arguments that it gives. phrases: any words, now and then in place of a known value."""
    sentence = re.sub(r"\[(.*?)\]", lambda match: match[1] if rng.random() < 0.4 else "", rng.choice(tool.sentences))
    arguments: dict[str, Any] = {}

    def fill(match: re.Match[str]) -> str:
        name, _, fixed = match[1].partition("=")
        schema = tool.properties[name]
        if fixed:
            words, _, meaning = fixed.partition(":")
            arguments[name] = meaning == "true" if schema["type"] == "boolean" else meaning or words
            return words
        values = VALUES_OF.get(tool.name, VALUES).get(name, VALUES[name])
        value = values(rng) if callable(values) else rng.choice(values)
        if schema["type"] in ("integer", "number"):
            arguments[name] = NUMERALS[value] if value in NUMERALS else int(value)
            if schema["type"] == "number" and rng.random() < 0.15 and value.isdigit():
                value += ".5"
                arguments[name] = float(value)
        else:
            if not callable(values) and rng.random() < 0.25:
                value = rng.choice(phrases)
            arguments[name] = value.removeprefix("on ").removeprefix("the ") if name == "date" else value
            if name == "date" and value.startswith("the day"):
                arguments[name] = value
        return value

    return " ".join(re.sub(r"\{(.*?)\}", fill, sentence).split()), arguments
