"""Tables of a TOML file as dataclasses: a wrong name or kind of value is one sentence that says what was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from ingle.errors import UsageError

__all__ = ["expect", "expect_one_of", "hint", "read_table"]

T = TypeVar("T")


def read_table(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table of TOML. Raises UsageError for names it does not have and values of other kinds."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"[{where}] has no setting {name!r}; {hint(name, known)}")
        _expect_kind(value, str(known[name].type), f"{where}.{name}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UsageError(f"{where}.{name} is missing.")
    return cls(**values)


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a word in quotes"),
    "str | None": ((str,), "a word in quotes"),
    "str | bool": ((str, bool), "a word in quotes, true or false"),
}


def _expect_kind(value: object, kind: str, name: str) -> None:
    if kind in _KINDS:  # others are checked by who knows them
        kinds, words = _KINDS[kind]
        expect(type(value) in kinds, name, value, words)


def expect(holds: bool, name: str, value: object, words: str) -> None:
    """Raise UsageError unless it holds: `words` say what the value was to be."""
    if not holds:
        raise UsageError(f"{name} is {value!r}; expected {words}.")


def expect_one_of(value: object, name: str, words: Sequence[object]) -> None:
    """Raise UsageError unless the value is among `words`."""
    if value not in words:
        listed = ", ".join(word if isinstance(word, str) else str(word).lower() for word in words)
        raise UsageError(f"{name} is {value!r}; expected one of {listed}.")


def hint(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """The end of a sentence about a name that is not known: the one that was meant, or all there are."""
    close = get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}."
