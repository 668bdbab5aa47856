"""Families of tool calls: known by their templates, held to schemas by grammars, and found in answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ingle.engine.generate import Request, Writer
from ingle.errors import GrammarError
from ingle.text import ChatTemplate
from ingle.text.calls import Family, family_of
from ingle.text.grammar import Grammar
from ingle.text.tools import Tool, ToolCall
from text.call_templates import PUBLISHED, Published
from text.json_schemas import fits

TOOLS = (
    Tool(
        "set_alarm",
        "Wake me",
        {
            "type": "object",
            "properties": {
                "time": {"type": "string", "maxLength": 8},
                "day": {"enum": ["today", "tomorrow", 'a"b\n\\<']},
                "times": {"type": "integer", "minimum": 1, "maximum": 20},
                "songs": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
            },
            "required": ["time"],
            "additionalProperties": False,
        },
    ),
    Tool("set", "A name that another begins with", {"type": "object", "properties": {"a": {"type": "boolean"}}}),
    Tool("stop"),
)
CALLS = [ToolCall("set_alarm", {"time": '7 "x"\n', "times": 3}), ToolCall("stop", {})]


@pytest.fixture(scope="module", params=list(PUBLISHED))
def published(request: pytest.FixtureRequest) -> Published:
    return PUBLISHED[request.param]


@pytest.fixture(scope="module")
def template(published: Published, byte_level: Callable[..., dict[str, object]]) -> ChatTemplate:
    return published.make(byte_level)


@pytest.fixture(scope="module")
def family(template: ChatTemplate) -> Family:
    return family_of(template)


def tokens(family: Family, template: ChatTemplate, text: str) -> list[int]:
    """The tokens of a model that writes this text, its markup as control tokens where they are that."""
    tokenizer, ids = template.tokenizer, []
    rest = text
    while rest:
        mark = next((mark for mark in family.marks if rest.startswith(mark)), None)
        at = min((at for mark in family.marks if (at := rest.find(mark)) >= 0), default=len(rest))
        if mark is not None:
            ids.append(family.marks[mark])
            rest = rest[len(mark) :]
        else:
            ids += tokenizer.encode(rest[:at], add_special=False)
            rest = rest[at:]
    return ids


def accepts(grammar: Grammar, template: ChatTemplate, ids: Sequence[int]) -> bool:
    matcher = grammar.matcher(template.tokenizer)
    for token_id in ids:
        if not matcher.mask()[token_id]:
            return False
        matcher.advance(token_id)
    return matcher.is_complete


def walk(grammar: Grammar, template: ChatTemplate, seed: int, most: int = 400) -> list[int] | None:
    """The tokens of a random answer under the masks; None if it does not end."""
    rng, tokenizer = np.random.default_rng(seed), template.tokenizer
    matcher, ids = grammar.matcher(tokenizer), []
    for _ in range(most):
        allowed = np.flatnonzero(matcher.mask())
        ends = [i for i in allowed if tokenizer.token_bytes(int(i))[:1] in b'"}]<\n`' or tokenizer.is_control(int(i))]
        choice = int(rng.choice(ends if ends and rng.random() < 0.4 else allowed))
        matcher.advance(choice)
        if choice in tokenizer.eog_ids:
            return ids
        ids.append(choice)
    return None


def test_a_family_is_known_by_its_template(
    family: Family, published: Published, request: pytest.FixtureRequest
) -> None:
    assert family.name == request.node.callspec.params["published"]
    calls = [ToolCall("f", {"a": 1}), ToolCall("g", {})]
    assert family.write(calls) == published.two
    assert family.write([]) == ""


def test_calls_are_found_in_tokens_as_they_were_written(family: Family, template: ChatTemplate) -> None:
    for calls in (CALLS[:1], CALLS):
        found = family.find(tokens(family, template, family.write(calls)), TOOLS)
        assert found.calls == calls
        assert found.text == ""
        assert found.problems == []


def test_markup_that_is_a_control_token_is_no_call_when_spelt(family: Family, template: ChatTemplate) -> None:
    """What a person gets a model to say is text."""
    text = family.write(CALLS)
    found = family.find(template.tokenizer.encode(text, add_special=False), TOOLS)
    if any(mark in family.form.open for mark in family.marks):
        assert found.calls == []
        assert found.text == text
    else:
        assert found.calls == CALLS


def test_the_grammar_has_what_the_family_writes(family: Family, template: ChatTemplate) -> None:
    one, two = (tokens(family, template, family.write(calls)) for calls in (CALLS[:1], CALLS))
    wrong = tokens(family, template, family.write([ToolCall("set_alarm", {"hour": "7"})]))
    other = tokens(family, template, family.write([ToolCall("alarm", {})]))
    text = template.tokenizer.encode("Sure. {", add_special=False)
    for mode in ("auto", "required"):
        for many in (False, True):
            grammar = family.grammar(TOOLS, mode, many)
            assert accepts(grammar, template, one)
            assert accepts(grammar, template, two) == (many and family.form.many)
            assert not accepts(grammar, template, wrong)
            assert not accepts(grammar, template, other)
            assert accepts(grammar, template, text) == (mode == "auto")
            if family.form.open:
                assert accepts(grammar, template, [*text, *one]) == (mode == "auto")
    none = family.grammar(TOOLS, "none")
    assert accepts(none, template, text)
    assert not accepts(none, template, one)
    assert accepts(
        family.grammar(TOOLS, "required", only="stop"), template, tokens(family, template, family.write(CALLS[1:]))
    )
    assert not accepts(family.grammar(TOOLS, "required", only="stop"), template, one)
    with pytest.raises(GrammarError, match="no tool has that name"):
        family.grammar(TOOLS, only="go")


def test_random_answers_are_calls_by_the_schemas(family: Family, template: ChatTemplate) -> None:
    by_name: dict[str, Any] = {tool.name: tool.parameters for tool in TOOLS}
    grammar = family.grammar(TOOLS, "required")
    answers = [ids for seed in range(24) if (ids := walk(grammar, template, seed)) is not None]
    assert len(answers) > 16
    seen = set()
    for ids in answers:
        found = family.find(ids, TOOLS)
        assert not found.problems
        assert not found.text
        assert found.calls
        for call in found.calls:
            assert fits(call.arguments, {"additionalProperties": False, **by_name[call.name]})
            seen.add(call.name)
    assert seen == set(by_name)


def test_random_answers_are_text_and_perhaps_calls(family: Family, template: ChatTemplate) -> None:
    grammar = family.grammar(TOOLS)
    answers = [ids for seed in range(24) if (ids := walk(grammar, template, seed, 120)) is not None]
    assert len(answers) > 5
    for ids in answers:
        assert not family.find(ids, TOOLS).problems
    none = family.grammar(TOOLS, "none")
    for seed in range(8):
        ids = walk(none, template, seed, 100) or []
        assert not family.find(ids).calls


def test_what_is_streamed_is_what_is_found(family: Family, template: ChatTemplate) -> None:
    ids = tokens(family, template, family.write(CALLS))
    scanner = family.scanner(TOOLS)
    deltas = [scanner.push("" if template.tokenizer.is_control(i) else template.tokenizer.decode([i]), i) for i in ids]
    deltas.append(scanner.finish())
    names = {delta.index: delta.name for d in deltas for delta in d.calls if delta.name is not None}
    assert list(names.values()) == [call.name for call in CALLS]
    assert sum(len(d.calls) for d in deltas) > 2


def test_text_before_a_control_token_comes_with_it(byte_level: Callable[..., dict[str, object]]) -> None:
    """Also where it could have become a stop string: otherwise it would stand within the call."""
    template = PUBLISHED["mistral"].make(byte_level)
    family, tokenizer = family_of(template), template.tokenizer
    writer = Writer(tokenizer, Request([1], stop=("Sure, not",)))
    scanner = family.scanner()
    text = ""
    for token_id in tokens(family, template, f"Sure, {family.write(CALLS)}"):
        text += scanner.push(writer.write(token_id, last=False)[0], token_id).text
    scanner.finish()
    assert text == "Sure,"
    assert scanner.found.calls == CALLS
