"""Scores of API calling: what an answer called against what was right to call, and the figures over many answers.

Every figure but the argument ones is a share of items; docs/api-calls.md defines each in words.

accuracy            all items: nothing wrong. The right calls and no other, or no call where no tool fits
intent_em           where a tool fits: the called tools are the right ones, each as often (the paper's EM_intent)
structure_em        where a tool fits: and all their arguments are right (the paper's EM_structure)
argument_precision  of the arguments given where a tool fits, those that are right
argument_recall     of the arguments due, those that were given right
argument_f1         2 right / (given + due)
abstention          where no tool fits: nothing was called
wrong_refusal       where a tool fits: nothing was called (lower is better)
valid_json          of answers with call markup: every call in it parses
schema_valid        of answers with call markup: and each calls a tool at hand with arguments that obey its schema

Intent and structure are those of MobileLLM (Liu et al., ICML 2024, section 4.3); matching calls in any order, and what
makes a value right, are BFCL's (Patil et al., ICML 2025), see `ingle.evaluate.calls.values`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ingle.evaluate.calls.item import Expected, Item
from ingle.evaluate.calls.values import Normal, has_type, is_absent, normal_of, obeys, same
from ingle.evaluate.result import Metric
from ingle.evaluate.statistics import mean_stderr
from ingle.text.tools import FoundCalls, Tool, ToolCall, find_calls

__all__ = ["ItemScore", "metrics", "score"]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """One answer. expected, called: names of tools, sorted; expected is empty where no tool fits.

    tried: there is call markup. parses: and all of it is JSON. obeys: and obeys the schemas of the tools at hand.
    n_right, n_given, n_due: arguments. reason: what is wrong in one sentence; "" where nothing is.
    """

    expected: tuple[str, ...]
    called: tuple[str, ...]
    tried: bool
    parses: bool
    obeys: bool
    intent: bool
    structure: bool
    n_right: int
    n_given: int
    n_due: int
    reason: str


def score(item: Item, answer: str | None) -> ItemScore:
    """What an answer is worth. None: there was no answer (the prompt did not fit), which is wrong everywhere."""
    found = find_calls(answer or "")
    tools, normal = {tool.name: tool for tool in item.tools}, normal_of(item.source)
    expected = tuple(sorted(call.name for call in item.expected))
    called = tuple(sorted(call.name for call in found.calls))
    tried, parses = bool(found.calls or found.problems), not found.problems
    n_right, n_due, difference = _arguments(item.expected, found.calls, tools, normal)
    intent = answer is not None and parses and called == expected
    return ItemScore(
        expected=expected,
        called=called,
        tried=tried,
        parses=tried and parses,
        obeys=tried and parses and all(_obeys(call, tools) for call in found.calls),
        intent=intent,
        structure=intent and not difference,
        n_right=n_right,
        n_given=sum(len(call.arguments) for call in found.calls),
        n_due=n_due,
        reason=_reason(answer, found, called, expected, difference),
    )


def metrics(scores: Sequence[ItemScore]) -> tuple[Metric, ...]:
    """The figures over these answers; those that concern none of them are left out.

    Each has a value for each item, NaN where it does not concern it, whose mean is the figure. For the argument
    figures, which are ratios of sums, the value is what the item adds to the ratio (its linearised contribution), whose
    spread gives the standard error (Cochran, Sampling Techniques, section 6.3).
    """
    right = [_only(s.n_right, bool(s.expected)) for s in scores]
    given = [_only(s.n_given, bool(s.expected)) for s in scores]
    due = [_only(s.n_due, bool(s.expected)) for s in scores]
    found = (
        _mean("accuracy", (float(s.structure) for s in scores)),
        _mean("intent_em", (_only(s.intent, bool(s.expected)) for s in scores)),
        _mean("structure_em", (_only(s.structure, bool(s.expected)) for s in scores)),
        _ratio("argument_precision", right, given),
        _ratio("argument_recall", right, due),
        _ratio("argument_f1", [2 * n for n in right], [g + d for g, d in zip(given, due, strict=True)]),
        _mean("abstention", (_only(s.structure, not s.expected) for s in scores)),
        _mean("wrong_refusal", (_only(not s.tried, bool(s.expected)) for s in scores), better=False),
        _mean("valid_json", (_only(s.parses, s.tried) for s in scores)),
        _mean("schema_valid", (_only(s.obeys, s.tried) for s in scores)),
    )
    return tuple(metric for metric in found if metric is not None)


def _reason(
    answer: str | None, found: FoundCalls, called: Sequence[str], expected: Sequence[str], difference: str
) -> str:
    """The first thing that is wrong, as a sentence; "" where nothing is."""
    if answer is None:
        return "There is no answer."
    if found.problems:
        return found.problems[0]
    if called != expected:
        return f"Called {', '.join(called) or 'nothing'}; expected {', '.join(expected) or 'no call'}."
    return difference


def _obeys(call: ToolCall, tools: dict[str, Tool]) -> bool:
    """Whether a call is one that its tool can take. An argument that the tool does not name is none."""
    tool = tools.get(call.name)
    if tool is None:
        return False
    schema = {"additionalProperties": False, **tool.parameters}
    return obeys(call.arguments, schema)


def _arguments(
    expected: Sequence[Expected], given: Sequence[ToolCall], tools: dict[str, Tool], normal: Normal
) -> tuple[int, int, str]:
    """How many arguments are right, how many were due, and the first difference ("" where all calls are right)."""
    found = [[_right(right, call, tools, normal) for call in given] for right in expected]
    wrong = [
        [_difference(right, call, names) for call, names in zip(given, row, strict=True)]
        for right, row in zip(expected, found, strict=True)
    ]
    pairs = _matching([[not text for text in row] for row in wrong], len(given))
    whole = len(pairs) == len(expected) == len(given)
    n_right = [[len(names) for names in row] for row in found]
    if not whole:
        pairs = _greedy(n_right, [[call.name == right.name for call in given] for right in expected])
    n_due = sum(not any(map(is_absent, values)) for right in expected for values in right.arguments.values())
    for row, column in pairs.items():
        # What may be left out is due only where it was given right: nobody loses for leaving it out.
        n_due += sum(any(map(is_absent, expected[row].arguments[name])) for name in found[row][column])
    first = "" if whole else next((wrong[row][pairs[row]] for row in sorted(pairs) if wrong[row][pairs[row]]), "")
    return sum(n_right[row][column] for row, column in pairs.items()), n_due, first


def _right(expected: Expected, call: ToolCall, tools: dict[str, Tool], normal: Normal) -> list[str]:
    """The names of the call's arguments that are right, if it calls the right tool."""
    if call.name != expected.name:
        return []
    schemas = tools[call.name].parameters.get("properties", {}) if call.name in tools else {}
    return [
        name
        for name, value in call.arguments.items()
        if any(same(value, right, schemas.get(name), normal) for right in expected.arguments.get(name, ()))
        # "" and null among the right values say that an argument may be left out, not that a number may be "".
        and (not is_absent(value) or has_type(value, schemas.get(name)))
    ]


def _difference(expected: Expected, call: ToolCall, right: Sequence[str]) -> str:
    """What is wrong with a call whose arguments `right` are right, as a sentence; "" where nothing is."""
    if call.name != expected.name:
        return f"Called {call.name}; expected {expected.name}."
    for name, value in call.arguments.items():
        if name not in expected.arguments:
            return f"{call.name} was given {name}; expected none."
        if name not in right:
            due = " or ".join(repr(value) for value in expected.arguments[name] if not is_absent(value))
            return f"{call.name} was given {name} = {value!r}; expected {due or 'none'}."
    for name, values in expected.arguments.items():
        if name not in call.arguments and not any(map(is_absent, values)):
            return f"{call.name} lacks {name}."
    return ""


def _matching(fits: Sequence[Sequence[bool]], n_columns: int) -> dict[int, int]:
    """A largest pairing of rows with columns that fit them (augmenting paths, Kuhn 1955)."""
    taken: dict[int, int] = {}  # column -> row

    def place(row: int, tried: set[int]) -> bool:
        for column in range(n_columns):
            if fits[row][column] and column not in tried:
                tried.add(column)
                if column not in taken or place(taken[column], tried):
                    taken[column] = row
                    return True
        return False

    for row in range(len(fits)):
        place(row, set())
    return {row: column for column, row in taken.items()}


def _greedy(n_right: Sequence[Sequence[int]], allowed: Sequence[Sequence[bool]]) -> dict[int, int]:
    """Rows with columns, those with the most right arguments first."""
    best = sorted(
        (-n, row, column) for row, line in enumerate(n_right) for column, n in enumerate(line) if allowed[row][column]
    )
    pairs: dict[int, int] = {}
    for _, row, column in best:
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def _only(value: float, concerned: bool) -> float:
    return float(value) if concerned else math.nan


def _mean(name: str, values: Iterable[float], *, better: bool = True) -> Metric | None:
    figures = tuple(values)
    real = [value for value in figures if not math.isnan(value)]
    if not real:
        return None
    stderr = mean_stderr(real) if len(real) > 1 else None
    return Metric(name, math.fsum(real) / len(real), stderr, len(real), better, figures, counts=not better)


def _ratio(name: str, tops: Sequence[float], bottoms: Sequence[float]) -> Metric | None:
    """The sum of `tops` over that of `bottoms`; NaN in both where an item is not concerned."""
    real = [bottom for bottom in bottoms if not math.isnan(bottom)]
    total = math.fsum(real)
    if not total:
        return None
    ratio = math.fsum(top for top in tops if not math.isnan(top)) / total
    mean = total / len(real)
    shares = (ratio + (top - ratio * bottom) / mean for top, bottom in zip(tops, bottoms, strict=True))
    found = _mean(name, shares)
    return None if found is None else replace(found, value=ratio)  # without what the rounding of the shares adds
