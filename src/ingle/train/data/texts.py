"""Texts to documents: a line `<|endoftext|>` separates them; a text without one is one document.

A text that begins with `<doc id="` is one of WikiExtractor's, whose documents stand between such a line and `</doc>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["MAX_CHARACTERS", "SEPARATOR", "split_documents"]

SEPARATOR = "<|endoftext|>"
_WIKI_BEGIN, _WIKI_END = '<doc id="', "</doc>"
#: A longer text is cut after the last line that fits (or, without lines, just here). Models read some thousand tokens
#: at a time, so nothing is lost, and memory stays bounded whatever the file's size.
MAX_CHARACTERS = 1 << 22


def split_documents(chunks: Iterable[str], limit: int = MAX_CHARACTERS) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each document in a text that comes in chunks.

    Line breaks at both ends of a document are left out, and documents of nothing but whitespace altogether.
    """
    lines: list[str] = []
    size, first, number = 0, 1, 0
    wiki = False
    for line in _lines(chunks, limit):
        wiki = wiki or (number == 0 and line.startswith(_WIKI_BEGIN))
        separates = line.strip() == SEPARATOR or (wiki and (line.startswith(_WIKI_BEGIN) or line.strip() == _WIKI_END))
        if separates or size + len(line) > limit:
            yield from _document(first, lines)
            lines, size, first = [], 0, number + 1
        number += line.endswith("\n")
        if separates:
            first = number + 1
        else:
            lines.append(line)
            size += len(line)
    yield from _document(first, lines)


def _document(first: int, lines: list[str]) -> Iterator[tuple[int, str]]:
    text = "".join(lines)
    inner = text.strip("\r\n")
    if inner and not inner.isspace():
        yield first + text[: text.index(inner)].count("\n"), inner


def _lines(chunks: Iterable[str], limit: int) -> Iterator[str]:
    """Lines with their ends ("\\n" alone ends one); what is longer than `limit` comes in pieces."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            yield from _pieces(line + "\n", limit)
        while len(rest) > limit:
            yield rest[:limit]
            rest = rest[limit:]
    if rest:
        yield rest


def _pieces(line: str, limit: int) -> Iterator[str]:
    for start in range(0, len(line), limit):
        yield line[start : start + limit]
