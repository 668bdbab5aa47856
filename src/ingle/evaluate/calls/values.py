"""When an argument's value is a right one, and when it obeys its schema.

Two values are the same when they are of one JSON type and equal, with two allowances. A whole number may stand where
the schema wants any number (5 for 5.0), and a float never where it wants an integer. Texts are compared after one of
two normalisations, and nowhere else is anything forgiven:

* BFCL's, for its items: letter case, spaces and the characters , . / - _ * ^ do not count, and ' is as good as ".
* for everything else, said by voice or typed: letter case, surrounding spaces and final punctuation do not count.

Lists are compared in order, objects by key, whatever lies in them by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

__all__ = ["Normal", "bfcl_text", "has_type", "is_absent", "normal_of", "obeys", "same", "spoken_text"]

Normal: TypeAlias = Callable[[str], str]

_BFCL = str.maketrans({**dict.fromkeys(" ,./-_*^"), "'": '"'})
_FINAL = ".,;:!?\u2026"
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    # By JSON Schema 5.0 is an integer; whether it is the right one is another question.
    "integer": lambda value: (
        not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}


def bfcl_text(text: str) -> str:
    """
    >>> bfcl_text("April 1, 2024") == bfcl_text("april_1/2024")
    True
    """
    return text.translate(_BFCL).lower()


def spoken_text(text: str) -> str:
    """
    >>> spoken_text(" Half past six. ")
    'half past six'
    """
    return text.strip().rstrip(_FINAL).rstrip().lower()


def normal_of(source: str) -> Normal:
    """How texts of this source's items are compared."""
    return bfcl_text if source.startswith("bfcl") else spoken_text


def is_absent(value: object) -> bool:
    """Whether this, among the values that are right, says that the argument may be left out."""
    return value is None or value == ""


def same(given: object, right: object, schema: object, normal: Normal) -> bool:
    """Whether two JSON values are the same. schema: the argument's, to know where integers are due."""
    if isinstance(given, bool) or isinstance(right, bool):
        return given is right
    if isinstance(given, int | float) and isinstance(right, int | float):
        return given == right and not (isinstance(given, float) and _wants_integer(schema))
    if isinstance(given, str) and isinstance(right, str):
        return normal(given) == normal(right)
    if isinstance(given, list) and isinstance(right, list):
        items = _part(schema, "items")
        return len(given) == len(right) and all(same(g, r, items, normal) for g, r in zip(given, right, strict=True))
    if isinstance(given, dict) and isinstance(right, dict):
        properties = _part(schema, "properties")
        return given.keys() == right.keys() and all(
            same(given[key], right[key], _part(properties, key), normal) for key in given
        )
    return given is None and right is None


def has_type(value: object, schema: object) -> bool:
    """Whether a JSON value has one of the types of a schema; where it has none, any will do."""
    types = _names(_part(schema, "type"))
    return not types or any(_TYPES[name](value) for name in types if name in _TYPES)


def obeys(value: object, schema: object) -> bool:
    """Whether a JSON value obeys a schema, as far as type, enum, const, properties, required, additionalProperties,
    items, anyOf, oneOf (as anyOf) and allOf go; other keywords (pattern, minimum, $ref ...) are not looked at.
    """
    if not isinstance(schema, Mapping):
        return schema is not False
    if not has_type(value, schema):
        return False
    choices = schema.get("enum")
    if isinstance(choices, list) and not any(_equal(value, choice) for choice in choices):
        return False
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    for key, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        parts = schema.get(key)
        if isinstance(parts, list) and not enough(obeys(value, part) for part in parts):
            return False
    if isinstance(value, list):
        return all(obeys(item, schema.get("items")) for item in value)
    return not isinstance(value, dict) or _object_obeys(value, schema)


def _object_obeys(value: Mapping[str, object], schema: Mapping[str, Any]) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    known: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    if isinstance(required, list) and not all(name in value for name in required):
        return False
    return all(obeys(item, known.get(key, schema.get("additionalProperties"))) for key, item in value.items())


def _equal(value: object, other: object) -> bool:
    """Equality of JSON values: 1 is 1.0 and not true."""
    return same(value, other, None, lambda text: text)


def _wants_integer(schema: object) -> bool:
    types = _names(_part(schema, "type"))
    return "integer" in types and "number" not in types


def _names(value: object) -> tuple[str, ...]:
    """The names of a schema's types; none where any will do."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()


def _part(schema: object, key: str) -> object:
    return schema.get(key) if isinstance(schema, Mapping) else None
