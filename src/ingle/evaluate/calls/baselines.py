"""What simple methods reach on API calling, for a reader to judge a model by. They answer in text, as models do.

nearest          the call of the training request with the most similar words (TF-IDF cosine), arguments and all
nearest_lexicon  the tool of that request; its arguments are values seen in training that the request's words hold
description      the tool whose name, description and arguments have the most similar words; no arguments
majority         the tool called most often in training, of those at hand; no arguments
abstain          never a call

Neighbours are only those whose tools are all at hand. The first two abstain below a similarity that is chosen on the
training items, each left out in turn.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingle.errors import UsageError
from ingle.evaluate.calls.item import Item
from ingle.evaluate.calls.values import is_absent
from ingle.text.tools import CALL_BEGIN, CALL_END, Tool, ToolCall

__all__ = ["BASELINES", "Index", "Lexicon", "baseline", "right_calls", "write_calls"]

_MAX_TUNING = 2000  # training items that the threshold is chosen on
_MAX_PHRASE = 12  # words of a value


def baseline(name: str, train: Sequence[Item], test: Sequence[Item]) -> list[str]:
    """An answer for each test item, by the method of this name.

    Raises UsageError for a method that is none, and where there is nothing to learn from.
    """
    if name not in BASELINES:
        raise UsageError(f"{name!r} is no baseline; expected one of {', '.join(BASELINES)}.")
    if name not in ("abstain", "description") and not any(item.expected for item in train):
        raise UsageError(f"The baseline {name} learns from items with calls, and got none; give training items.")
    answer = BASELINES[name](train)
    return [answer(item) for item in test]


def right_calls(item: Item) -> list[ToolCall]:
    """The calls that are right, each argument with the first of its right values; what may be absent is."""
    return [
        ToolCall(
            call.name,
            {name: values[0] for name, values in call.arguments.items() if not any(map(is_absent, values))},
        )
        for call in item.expected
    ]


def write_calls(calls: Sequence[ToolCall]) -> str:
    """Calls as a model writes them."""
    return "\n".join(f"{CALL_BEGIN}\n{call.to_json()}\n{CALL_END}" for call in calls)


class Index:
    """Requests with calls, to find the one with the most similar words among those whose tools are at hand."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = [item for item in items if item.expected]
        self._row = {id(item): row for row, item in enumerate(self.items)}
        n = len(self.items)
        groups: dict[frozenset[str], int] = {}
        names = [frozenset(call.name for call in item.expected) for item in self.items]
        self._group = np.array([groups.setdefault(name, len(groups)) for name in names], np.intp)
        self._groups = list(groups)
        counts = [Counter(_words(item)) for item in self.items]
        n_having = Counter(word for count in counts for word in count)
        self._idf = {word: math.log((1 + n) / (1 + having)) + 1 for word, having in n_having.items()}
        self._idf_unseen = math.log(1 + n) + 1
        postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for row, count in enumerate(counts):
            for word, weight in self._vector(count).items():
                postings[word].append((row, weight))
        self._postings = {
            word: (np.array([row for row, _ in rows], np.intp), np.array([weight for _, weight in rows]))
            for word, rows in postings.items()
        }

    def nearest(self, item: Item, without: Item | None = None) -> tuple[Item | None, float]:
        """The most similar item and the cosine of the two, in [0, 1]; the first of equals, and None where none may be.

        without: an item that is not to be found.
        """
        at_hand = {tool.name for tool in item.tools}
        allowed = np.array([group <= at_hand for group in self._groups])[self._group]
        if without is not None:
            allowed[self._row.get(id(without), [])] = False
        if not allowed.any():
            return None, 0.0
        similarity: NDArray[np.float64] = np.zeros(len(self.items))
        for word, weight in self._vector(Counter(_words(item))).items():
            if word in self._postings:
                rows, weights = self._postings[word]
                similarity[rows] += weight * weights
        best = int(np.argmax(np.where(allowed, similarity, -1.0)))
        return self.items[best], float(similarity[best])

    def _vector(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Weights of words, of length 1. A word never seen in training has one too: it makes all less similar."""
        weights = {
            word: (1 + math.log(count)) * self._idf.get(word, self._idf_unseen) for word, count in counts.items()
        }
        return _unit(weights)


class Lexicon:
    """Values of arguments seen in training, by tool, that more often than not are values where their words occur."""

    def __init__(self, items: Sequence[Item]) -> None:
        single = [item for item in items if len(item.expected) == 1]
        seen: defaultdict[str, defaultdict[tuple[str, ...], Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        values: dict[tuple[str, str, tuple[str, ...]], Any] = {}
        for item in single:
            (call,) = right_calls(item)
            for name, value in call.arguments.items():
                phrase = tuple(_split(str(value))) if isinstance(value, str | int | float) else ()
                if 0 < len(phrase) <= _MAX_PHRASE:
                    seen[call.name][phrase][name] += 1
                    values.setdefault((call.name, name, phrase), value)
        occurring: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for item in single:
            tool = item.expected[0].name
            occurring.update({(tool, phrase) for _, phrase in _phrases(_words(item)) if phrase in seen[tool]})
        self._values: dict[tuple[str, tuple[str, ...]], tuple[str, Any]] = {}
        for tool, phrases in seen.items():
            for phrase, names in phrases.items():
                name, count = names.most_common(1)[0]
                if 2 * count >= occurring[tool, phrase]:
                    self._values[tool, phrase] = name, values[tool, name, phrase]

    def fill(self, tool: str, item: Item) -> ToolCall:
        """A call of `tool` with the values found in the request, the longest first, each argument and word once."""
        used: set[int] = set()
        arguments: dict[str, Any] = {}
        for start, phrase in sorted(_phrases(_words(item)), key=lambda found: -len(found[1])):
            name, value = self._values.get((tool, phrase), (None, None))
            here = set(range(start, start + len(phrase)))
            if name is not None and name not in arguments and not here & used:
                arguments[name] = value
                used |= here
        return ToolCall(tool, arguments)


_Answering = Callable[[Item], str]


def _nearest(train: Sequence[Item], *, lexical: bool) -> _Answering:
    index = Index(train)
    threshold = _threshold(index, train)
    lexicon = Lexicon(train) if lexical else None

    def answer(item: Item) -> str:
        neighbour, similarity = index.nearest(item)
        if neighbour is None or similarity <= 0 or similarity < threshold:
            return ""
        if lexicon is None:
            return write_calls(right_calls(neighbour))
        return write_calls([lexicon.fill(call.name, item) for call in neighbour.expected])

    return answer


def _threshold(index: Index, train: Sequence[Item]) -> float:
    """The similarity below which abstaining makes most training items right; the lowest of equals."""
    step = max(1, -(-len(train) // _MAX_TUNING))
    found: list[tuple[float, int]] = []  # similarity; what a call is worth there: 1 right, 0 wrong, -1 out of place
    for item in train[::step]:
        neighbour, similarity = index.nearest(item, without=item)
        if neighbour is not None and similarity > 0:
            same = sorted(c.name for c in neighbour.expected) == sorted(c.name for c in item.expected)
            found.append((similarity, (1 if same else 0) if item.expected else -1))
    found.sort()
    best, gain, threshold = 0, 0, 0.0
    for position, (similarity, worth) in enumerate(found):
        # Abstaining up to here loses the right calls and gains what should not have been called.
        gain -= worth
        after = found[position + 1][0] if position + 1 < len(found) else math.inf
        if gain > best and after > similarity:
            best, threshold = gain, after
    return threshold


def _description(train: Sequence[Item]) -> _Answering:
    tools = {tool: None for item in train for tool in (_text_of(tool) for tool in item.tools)}
    n_having = Counter(word for text in tools for word in set(_split(text)))
    idf = {word: math.log((1 + len(tools)) / (1 + n)) + 1 for word, n in n_having.items()}
    unseen = math.log(1 + len(tools)) + 1

    def vector(words: Sequence[str]) -> dict[str, float]:
        return _unit({word: idf.get(word, unseen) for word in words})

    def answer(item: Item) -> str:
        request = vector(_words(item))
        best, name = 0.0, None
        for tool in item.tools:
            weights = vector(_split(_text_of(tool)))
            similarity = sum(weight * weights.get(word, 0.0) for word, weight in request.items())
            if similarity > best:
                best, name = similarity, tool.name
        return "" if name is None else write_calls([ToolCall(name, {})])

    return answer


def _majority(train: Sequence[Item]) -> _Answering:
    counts = Counter(call.name for item in train for call in item.expected)

    def answer(item: Item) -> str:
        at_hand = {tool.name for tool in item.tools}
        name = next((name for name, _ in counts.most_common() if name in at_hand), None)
        return "" if name is None else write_calls([ToolCall(name, {})])

    return answer


def _abstain(train: Sequence[Item]) -> _Answering:
    return lambda item: ""


BASELINES: Final[Mapping[str, Callable[[Sequence[Item]], _Answering]]] = {
    "nearest": partial(_nearest, lexical=False),
    "nearest_lexicon": partial(_nearest, lexical=True),
    "description": _description,
    "majority": _majority,
    "abstain": _abstain,
}


def _text_of(tool: Tool) -> str:
    """The name (its parts as words), the description, and the names of the arguments."""
    return f"{tool.name} {tool.description} {' '.join(tool.parameters.get('properties', ()))}".replace("_", " ")


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()}


def _words(item: Item) -> list[str]:
    """The words of what was said last by the person."""
    said = [str(message["content"]) for message in item.messages if message["role"] == "user"]
    return _split(said[-1]) if said else []


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _phrases(words: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every run of words, with its start."""
    for start in range(len(words)):
        for end in range(start + 1, min(start + _MAX_PHRASE, len(words)) + 1):
            yield start, tuple(words[start:end])
