"""Reads a value of JSON one character at a time, to know where it ends; whether it is sound is for the decoder."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

__all__ = ["SPACE", "BrokenCallError", "Machine", "read_value", "spaceless"]

T = TypeVar("T")

#: It is sent characters, control tokens as their whole text, and None at the end.
Machine: TypeAlias = Generator[None, str | None, T]

SPACE = frozenset(" \t\r\n")
_BARE = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")  # numbers, true, false, null
_BETWEEN = SPACE | _BARE | frozenset(":,")
MAX_DEPTH = 256


class BrokenCallError(Exception):
    """What is wrong with a call, to go on after "A call ..."."""


def spaceless() -> Machine[str | None]:
    """The next item that is no space."""
    while True:
        item = yield
        if item not in SPACE:
            return item


def read_value(
    item: str | None, back: Callable[[list[str | None]], None], tell: list[str] | None = None
) -> Machine[str]:
    """The text of the value that begins with `item`; `tell` gets it as it comes.

    Numbers and words end before the character behind them, which is given `back`.
    """
    text: list[str] = []
    depth, quoted, escaped = 0, False, False
    while True:
        if item is None or len(item) > 1:
            raise BrokenCallError("is not JSON")
        text.append(item)
        if tell is not None:
            tell.append(item)
        if quoted:
            if escaped:
                escaped = False
            elif item == "\\":
                escaped = True
            elif item == '"':
                quoted = False
            elif item < " ":
                raise BrokenCallError("is not JSON")
        elif item == '"':
            quoted = True
        elif item in "{[":
            depth += 1
        elif item in "}]":
            depth -= 1
        elif item not in _BETWEEN:
            raise BrokenCallError("is not JSON")
        if depth > MAX_DEPTH or depth < 0:
            raise BrokenCallError("is not JSON")
        if not depth and not quoted and item not in _BARE:
            return "".join(text)
        item = yield
        if not depth and not quoted and item not in _BARE:
            back([item])
            return "".join(text)
