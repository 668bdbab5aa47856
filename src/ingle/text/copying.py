"""Arguments in the words of the request: a text argument may be any run of its words, and nothing else.

For requests whose arguments are all said ("wake me at *half past six*"), as in SNIPS, HWU64 and most that are spoken to
a device. A small model's mistakes are often words that nobody said; under this limit it can only choose wrong ones.
Not for arguments that have to be worked out: "06:30", an address, a translation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ingle.text.tools import Tool

__all__ = ["copying", "runs_of_words"]

MAX_WORDS = 24  # of a run
MAX_RUNS = 4096

_EDGES = re.compile(r"^[^\w$€£#@+-]+|[^\w%]+$")
_FREE = {"type", "description", "title", "examples"}  # keys of a schema of texts that says nothing of which


def runs_of_words(text: str) -> list[str]:
    """The runs of words of a text, each as it is and without punctuation and "'s" at its edges; in no special order.

    Words are parted by spaces. Longer runs than 24 words, and runs beyond the first 4096, are left out.
    >>> sorted(runs_of_words("Play Anna's songs!"))
    ['Anna', "Anna's", "Anna's songs", "Anna's songs!", 'Play', 'Play Anna', "Play Anna's", "Play Anna's songs", \
"Play Anna's songs!", 'songs', 'songs!']
    """
    words = list(re.finditer(r"\S+", text))
    found: dict[str, None] = {}
    for n in range(1, MAX_WORDS + 1):
        for first, last in zip(words, words[n - 1 :], strict=False):
            run = text[first.start() : last.end()]
            bare = _EDGES.sub("", run)
            for words_of_run in (run, bare, re.sub(r"['\u2019]s$", "", bare)):
                if words_of_run:
                    found.setdefault(words_of_run)
                if len(found) == MAX_RUNS:
                    return list(found)
    return list(found)


def copying(tools: Sequence[Tool], text: str) -> list[Tool]:
    """The tools for one request: each argument that is any text has to be words of `text`.

    Arguments whose schema says more of the text (values, a pattern, a length, a default) or allows other types too stay
    as they are, and so do texts within objects and lists.
    """
    runs = runs_of_words(text)
    if not runs:
        return list(tools)
    return [_copying(tool, runs) for tool in tools]


def _copying(tool: Tool, runs: list[str]) -> Tool:
    properties = tool.parameters.get("properties")
    if not isinstance(properties, dict):
        return tool
    limited = {
        name: {"$ref": "#/$defs/words-of-the-request"}
        if isinstance(schema, dict) and schema.get("type") == "string" and set(schema) <= _FREE
        else schema
        for name, schema in properties.items()
    }
    if limited == properties:
        return tool
    definitions = {**(tool.parameters.get("$defs") or {}), "words-of-the-request": {"enum": runs}}
    return replace(tool, parameters={**tool.parameters, "properties": limited, "$defs": definitions})
