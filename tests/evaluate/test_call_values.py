"""What counts as the same value, and which values obey a schema."""

from __future__ import annotations

from typing import Any

import pytest

from ingle.evaluate.calls.values import bfcl_text, normal_of, obeys, same, spoken_text

INTEGER, NUMBER, STRING = {"type": "integer"}, {"type": "number"}, {"type": "string"}


@pytest.mark.parametrize(
    ("given", "right", "schema", "expected"),
    [
        (5, 5, INTEGER, True),
        (5.0, 5, INTEGER, False),  # a float for an integer
        (5, 5.0, NUMBER, True),  # an integer for any number
        (5.0, 5, NUMBER, True),
        (5, 6, NUMBER, False),
        (5.0, 5, {"type": ["integer", "null"]}, False),
        (5.0, 5, {"type": ["integer", "number"]}, True),
        (True, True, {"type": "boolean"}, True),
        (1, True, {"type": "boolean"}, False),  # equal in Python
        (True, 1, INTEGER, False),
        (False, 0, INTEGER, False),
        ("true", True, {"type": "boolean"}, False),
        ("5", 5, INTEGER, False),
        (5, "5", STRING, False),
        (None, None, {}, True),
        (None, "", STRING, False),
        (None, 0, INTEGER, False),
        ("Oslo", "oslo", STRING, True),
        ([1, 2], [1, 2], {"type": "array"}, True),
        ([2, 1], [1, 2], {"type": "array"}, False),
        ([1], [1, 1], {"type": "array"}, False),
        ([1, 2], [1.0, 2.0], {"type": "array", "items": NUMBER}, True),
        ([1.0], [1], {"type": "array", "items": INTEGER}, False),
        ([[1.0]], [[1]], {"type": "array", "items": {"type": "array", "items": INTEGER}}, False),
        (["A"], ["a"], {"type": "array", "items": STRING}, True),
        ([], [], {"type": "array"}, True),
        ({"a": "X", "b": 1}, {"b": 1, "a": "x"}, {"type": "object"}, True),
        ({"a": 1}, {"a": 1, "b": 2}, {"type": "object"}, False),
        ({"a": 1, "b": 2}, {"a": 1}, {"type": "object"}, False),
        ({"a": 1.0}, {"a": 1}, {"type": "object", "properties": {"a": INTEGER}}, False),
        ({"a": [{"b": "Y"}]}, {"a": [{"b": "y"}]}, True, True),
        ([], {}, {}, False),
        ("a", ["a"], {}, False),
    ],
)
def test_same(given: object, right: object, schema: object, expected: bool) -> None:
    assert same(given, right, schema, spoken_text) is expected


@pytest.mark.parametrize(
    ("a", "b", "bfcl", "spoken"),
    [
        ("April 1, 2024", "april 1 2024", True, False),
        ("New York, NY", "new york ny", True, False),
        ("San-Francisco", "San Francisco", True, False),
        ("it's", 'it"s', True, False),
        ("x^2*y", "x2y", True, False),
        ("Half past six", "half past six", True, True),
        ("half past six.", "half past six", True, True),
        ("half past six?!", "half past six", False, True),
        (" jazz ", "jazz", True, True),
        ("jazz  music", "jazz music", True, False),
        ("6:30", "630", False, False),
        ("the jazz", "jazz", False, False),
        ("caf\u00e9", "cafe", False, False),
        (".", "", True, True),
    ],
)
def test_texts(a: str, b: str, bfcl: bool, spoken: bool) -> None:
    assert (bfcl_text(a) == bfcl_text(b)) is bfcl
    assert (spoken_text(a) == spoken_text(b)) is spoken


def test_the_rule_follows_the_source() -> None:
    assert normal_of("bfcl_simple") is bfcl_text
    assert normal_of("snips") is normal_of("mine") is spoken_text


OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {"size": {"type": "string", "enum": ["small", "large"]}, "n": INTEGER, "tags": {"type": "array"}},
    "required": ["size"],
}


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ({"size": "small"}, OBJECT, True),
        ({"size": "small", "n": 2, "tags": []}, OBJECT, True),
        ({"n": 2}, OBJECT, False),  # required
        ({"size": "medium"}, OBJECT, False),  # enum
        ({"size": "Small"}, OBJECT, False),  # an enum is exact
        ({"size": "small", "n": "2"}, OBJECT, False),  # type
        ({"size": "small", "n": True}, OBJECT, False),
        ({"size": "small", "n": 2.0}, OBJECT, True),  # an integer by JSON Schema
        ({"size": "small", "n": 2.5}, OBJECT, False),
        ({"size": "small", "more": 1}, OBJECT, True),
        ({"size": "small", "more": 1}, {**OBJECT, "additionalProperties": False}, False),
        ({"size": "small", "more": 1}, {**OBJECT, "additionalProperties": STRING}, False),
        ([1, "a"], {"type": "array", "items": INTEGER}, False),
        ([[1], [2]], {"type": "array", "items": {"type": "array", "items": INTEGER}}, True),
        (None, {"type": ["string", "null"]}, True),
        (1, {"type": ["string", "null"]}, False),
        (1, {"enum": [True]}, False),
        (1, {"enum": [1.0]}, True),
        (1, {"const": 2}, False),
        (1, {"anyOf": [STRING, INTEGER]}, True),
        (1.5, {"oneOf": [STRING, INTEGER]}, False),
        (1, {"allOf": [INTEGER, {"enum": [2]}]}, False),
        ("x", {}, True),
        ("x", True, True),
        ("x", False, False),
    ],
)
def test_obeys(value: object, schema: object, expected: bool) -> None:
    assert obeys(value, schema) is expected
