"""What `response_format` asks for, and numbers that end."""

from __future__ import annotations

from typing import Any

import pytest

from ingle.errors import GrammarError
from ingle.text.grammar import Grammar
from text.small_vocabularies import spm_tokenizer


@pytest.mark.parametrize(
    "schema", [{}, {"type": "object"}, {"type": "object", "properties": {"a": {"type": "number"}}}]
)
def test_numbers_end(schema: dict[str, Any]) -> None:
    tokenizer = spm_tokenizer(prefix=False)
    for number, fits in (("-1.5", True), ("1e999", False), ("9" * 40, False), ("0." + "3" * 40, False), ("0.25", True)):
        matcher, allowed = Grammar.json_schema(schema).matcher(tokenizer), True
        for token_id in tokenizer.encode(f'{{"a": {number}}}', add_special=False):
            allowed = allowed and bool(matcher.mask()[token_id])
            if allowed:
                matcher.advance(token_id)
        assert allowed == fits


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "yaml"}, "'yaml'"),
        ({}, "None"),
        ("json", "None"),
        ({"type": "json_schema"}, "no schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "no schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": "yes"}}, "no truth value"),
        (
            {"type": "json_schema", "json_schema": {"strict": True, "schema": {"type": "array", "uniqueItems": True}}},
            "uniqueItems",
        ),
    ],
)
def test_a_response_format_that_is_none_is_a_sentence(value: Any, said: str) -> None:
    with pytest.raises(GrammarError, match=r"\.$") as caught:
        Grammar.response_format(value)
    assert said in str(caught.value)


def test_response_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wrapped = {"name": "x", "schema": schema}
    assert Grammar.response_format(None) is None
    assert Grammar.response_format({"type": "text"}) is None
    assert Grammar.response_format({"type": "json_object"}) == Grammar.json_object()
    strict = Grammar.json_schema(schema)
    assert Grammar.response_format({"type": "json_schema", "json_schema": {**wrapped, "strict": True}}) == strict
    assert Grammar.response_format({"type": "json_schema", **wrapped, "strict": True}) == strict
    loose = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
    grammar = Grammar.response_format({"type": "json_schema", "json_schema": loose})
    assert grammar is not None
    assert "uniqueItems" in grammar.warnings[0]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "wat"}, "Invalid type: wat"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        (
            {"type": "integer", "minimum": 5, "maximum": 1},
            "Unsatisfiable schema: minimum (5) is greater than maximum (1)",
        ),
    ],
)
def test_what_is_wrong_with_a_schema_is_said_without_our_grammar(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.json_schema(schema)
    assert str(caught.value) == f"The schema cannot be a grammar ({said}); correct or simplify it."
