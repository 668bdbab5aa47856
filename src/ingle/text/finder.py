"""Find given strings in a text: leftmost first, and of those that begin there the longest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = ["TokenFinder"]


class TokenFinder:
    """Splits texts at the given tokens.

    A regular expression of all tokens would do, but compiling one takes a second for the thousands of added tokens that
    some vocabularies have. Here the engine of `re` only finds the few possible first characters.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._ids = dict(tokens)
        lengths: dict[str, set[int]] = {}
        for text in self._ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile("[" + "".join(map(re.escape, lengths)) + "]") if lengths else None

    def matches(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(start, end, id) of each token found, from left to right, none overlapping."""
        if self._first is None:
            return
        position = 0
        while (match := self._first.search(text, position)) is not None:
            start = match.start()
            position = start + 1
            for length in self._lengths[text[start]]:
                token_id = self._ids.get(text[start : start + length])
                if token_id is not None:
                    position = start + length
                    yield start, position, token_id
                    break

    def starts(self, text: str) -> list[int]:
        """Every position where a token begins, also within another one."""
        if self._first is None:
            return []
        return [
            match.start()
            for match in self._first.finditer(text)
            if any(text[match.start() : match.start() + n] in self._ids for n in self._lengths[match[0]])
        ]

    def split(self, text: str) -> Iterator[str | int]:
        """The text as the strings between tokens (never empty) and the ids of the tokens, in order."""
        position = 0
        for start, end, token_id in self.matches(text):
            if start > position:
                yield text[position:start]
            yield token_id
            position = end
        if position < len(text):
            yield text[position:]
