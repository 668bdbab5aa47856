"""A model on API-calling items: prompts by its chat template, greedy answers, free and within the tools' grammar."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, TypeAlias, get_args

from ingle.engine.model import Model
from ingle.errors import GrammarError, TemplateError, UsageError
from ingle.evaluate.batch import generate
from ingle.evaluate.calls.item import Item
from ingle.evaluate.calls.score import ItemScore, metrics, score
from ingle.evaluate.result import TaskResult, item_id
from ingle.text.copying import copying
from ingle.text.grammar import Grammar

__all__ = ["MAX_TOKENS", "GrammarChoice", "result_of", "run_calls"]

GrammarChoice: TypeAlias = Literal["none", "schema", "copy", "both", "all"]
Progress: TypeAlias = Callable[[str, int, int], None]  # (task, done, total)

MAX_TOKENS = 256  # of an answer
_MAX_SHOWN = 20  # failing items, and kinds of confusion
_MAX_TEXT = 500  # characters of an answer, request or reason that are shown


@dataclass(frozen=True, slots=True)
class _Answered:
    """An item, what was answered, what that is worth, and whether the answer was cut at `MAX_TOKENS`.

    answer: None where there is none, because the prompt did not fit. problem: why the grammar broke it off, if it did.
    """

    item: Item
    answer: str | None
    score: ItemScore
    is_cut: bool = False
    problem: str = ""


def run_calls(
    model: Model,
    items: Sequence[Item],
    *,
    grammar: GrammarChoice = "both",
    limit: int | None = None,
    on_progress: Progress | None = None,
) -> list[TaskResult]:
    """Ask the model for the calls of all items, and score them: a result for each source, and one of all together.

    grammar: "none" = answers as the model likes, in results named calls_<source>; "schema" = answers that are a text
    without calls or calls that obey the schemas of the item's tools, in calls_<source>+grammar; "copy" = such answers
    whose text arguments are words of the request too (`text.copying`), in calls_<source>+copy; "both" = the first two;
    "all" = all three.
    limit: so many items of each source, from its first. on_progress(task, done, total): told as answers are made; what
    it raises ends the run.

    An item whose prompt the context does not hold has called nothing and is wrong, and so is one whose answer broke off
    because its grammar could not be followed to the end. A model whose chat template has no place for tools is told of
    them in the system message; a note says so.
    Raises UsageError for arguments that cannot be, TemplateError for messages that the chat template refuses.
    """
    if grammar not in get_args(GrammarChoice):
        raise UsageError(f"grammar is {grammar!r}; expected one of {', '.join(get_args(GrammarChoice))}.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UsageError(f"limit is {limit!r}; expected a whole number of 1 or more.")
    if not items:
        raise UsageError("There are no API-calling items; give at least one.")
    by_source: dict[str, list[Item]] = {}
    for item in items:
        by_source.setdefault(item.source, []).append(item)
    # All prompts before any answer: a conversation that the template refuses is told at once.
    prompts = {source: [_prompt(model, item) for item in chosen[:limit]] for source, chosen in by_source.items()}
    results: list[TaskResult] = []
    for limits in {"both": ("none", "schema"), "all": ("none", "schema", "copy")}.get(grammar, (grammar,)):
        suffix = {"none": "", "schema": "+grammar", "copy": "+copy"}[limits]
        everything: list[_Answered] = []
        notes: list[str] = []
        began = perf_counter()
        for source, ids in prompts.items():
            task, started = f"calls_{source}{suffix}", perf_counter()
            chosen = by_source[source][:limit]
            grammars, told = _grammars(chosen, copy=limits == "copy") if suffix else (None, [])
            if not model.template.takes_tools:
                told.append("The chat template has no place for tools; the system message told of them.")
            if len(chosen) < len(by_source[source]):
                told.append(f"The first {len(chosen):,} of {len(by_source[source]):,} items only.")
            answered = _answers(model, task, chosen, ids, grammars, on_progress)
            results.append(_result(task, answered, limits, perf_counter() - started, told))
            everything += answered
            notes += [f"{source}: {note}" for note in told]
        if len(prompts) > 1:
            results.append(_result(f"calls{suffix}", everything, limits, perf_counter() - began, notes))
    return results


def result_of(task: str, items: Sequence[Item], answers: Sequence[str]) -> TaskResult:
    """The result of answers made elsewhere, such as those of a baseline."""
    answered = [_Answered(item, answer, score(item, answer)) for item, answer in zip(items, answers, strict=True)]
    return _result(task, answered, None, 0.0, [])


def _prompt(model: Model, item: Item) -> list[int]:
    try:
        return model.template.encode_chat(item.messages, tools=[tool.as_openai() for tool in item.tools])
    except (TemplateError, UsageError) as error:
        raise type(error)(f"The item {item.id!r} of {item.source} cannot be asked. {error}") from None


def _request(item: Item) -> str:
    """What the user said, which arguments can be copied from."""
    return "\n".join(str(message["content"]) for message in item.messages if message["role"] == "user")


def _grammars(items: Sequence[Item], copy: bool) -> tuple[list[Grammar | None], list[str]]:
    """The grammar of each item's tools, None where there can be none, and a note about those.

    Several calls are allowed where any item of the source expects several: an application knows whether it takes them.
    """
    many = any(len(item.expected) > 1 for item in items)
    known: dict[str, Grammar | None] = {}
    reasons: Counter[str] = Counter()
    found = []
    for item in items:
        tools = sorted(item.tools, key=lambda tool: tool.name)  # the same tools in another order are the same grammar
        if copy:
            tools = copying(tools, _request(item))
        key = json.dumps([tool.as_openai() for tool in tools], sort_keys=True)
        if key not in known:
            try:
                known[key] = Grammar.tool_calls(tools, many=many)
            except GrammarError as error:
                known[key] = None
                reasons[str(error)] += 1
        found.append(known[key])
    free = sum(grammar is None for grammar in found)
    if not free:
        return found, []
    return found, [f"{free:,} items were answered without a grammar. {reasons.most_common(1)[0][0]}"]


def _answers(
    model: Model,
    task: str,
    items: Sequence[Item],
    prompts: Sequence[Sequence[int]],
    grammars: Sequence[Grammar | None] | None,
    on_progress: Progress | None,
) -> list[_Answered]:
    fit = [i for i, ids in enumerate(prompts) if len(ids) < model.context]
    n_unfit = len(items) - len(fit)

    def progress(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(task, n_unfit + done, len(items))

    answered = [_Answered(item, None, score(item, None)) for item in items]
    made = generate(
        model,
        [prompts[i] for i in fit],
        max_tokens=MAX_TOKENS,
        stop=model.template.stops,
        grammars=None if grammars is None else [grammars[i] for i in fit],
        continuation=False,
        on_progress=progress,
    )
    for i, answer in zip(fit, made, strict=True):
        worth = score(items[i], answer.text)
        if answer.problem:
            worth = replace(worth, intent=False, structure=False, reason=answer.problem)
        answered[i] = _Answered(items[i], answer.text, worth, answer.finish_reason == "length", answer.problem)
    return answered


def _result(
    task: str, answered: Sequence[_Answered], limits: str | None, seconds: float, notes: Sequence[str]
) -> TaskResult:
    """limits: the grammar's; None where no model was asked."""
    scores = [each.score for each in answered]
    n_unfit = sum(each.answer is None for each in answered)
    n_cut = sum(each.is_cut for each in answered)
    problems = [each.problem for each in answered if each.problem]
    told = list(notes)
    if n_unfit:
        told.append(
            f"{n_unfit:,} of {len(answered):,} prompts are longer than the context and count as wrong; "
            "load the model with a larger context."
        )
    if n_cut:
        told.append(
            f"{n_cut:,} of {len(answered):,} answers were cut at {MAX_TOKENS} tokens or where the context ends."
        )
    if problems:
        told.append(f"{len(problems):,} of {len(answered):,} answers broke off and count as wrong. {problems[0]}")
    settings = {} if limits is None else {"grammar": limits, "max_tokens": MAX_TOKENS}
    details: dict[str, Any] = {
        "settings": settings,
        "n_items": len(answered),
        "n_without_tool": sum(not s.expected for s in scores),
        "n_too_long": n_unfit,
        "n_cut": n_cut,
        "n_broken_off": len(problems),
        "arguments": {
            name: sum(getattr(s, f"n_{name}") for s in scores if s.expected) for name in ("right", "given", "due")
        },
        "confusion": _confusion(scores),
        "failures": _failures(answered),
    }
    ids = tuple(_id(each.item) for each in answered)
    return TaskResult(task, metrics(scores), ids, seconds, tuple(told), details)


def _confusion(scores: Iterable[ItemScore]) -> list[dict[str, Any]]:
    """What was called in place of what, the most frequent first."""
    counts = Counter((", ".join(s.expected), ", ".join(s.called)) for s in scores if not s.intent)
    return [
        {"expected": expected[:_MAX_TEXT], "called": called[:_MAX_TEXT], "n": n}
        for (expected, called), n in counts.most_common(_MAX_SHOWN)
    ]


def _id(item: Item) -> str:
    """Of what is asked and what is right. An item's own id may be its line in a file."""
    record = item.to_dict()
    return item_id(json.dumps([record[name] for name in ("messages", "tools", "expected")], sort_keys=True))


def _failures(answered: Sequence[_Answered]) -> list[dict[str, Any]]:
    """The first items that went wrong, and how."""
    wrong = [each for each in answered if not each.score.structure]
    return [
        {
            "id": each.item.id,
            "request": str(each.item.messages[-1].get("content"))[:_MAX_TEXT],
            "answer": None if each.answer is None else each.answer[:_MAX_TEXT],
            "reason": each.score.reason[:_MAX_TEXT],
        }
        for each in wrong[:_MAX_SHOWN]
    ]
