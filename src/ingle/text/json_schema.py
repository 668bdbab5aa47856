"""JSON Schemas on their way into a grammar: what is refused, what is closed, and how their JSON is written.

JSON is written as `json.dumps` and chat templates do: ", " and ": ", nothing else between values, letters as they are;
so no answer can go on for ever in space between values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ingle.errors import GrammarError

__all__ = ["bounded", "check_count", "closed", "is_open", "json_rule", "n_properties"]

MAX_DEPTH = 100  # of values within values in a schema; llguidance reads 128
MAX_PROPERTIES = 256  # of one object: optional ones take time in the square of their number
MAX_PROPERTIES_IN_ALL = 8192  # some more fill the 65 thousand symbols that llguidance has

MAX_NUMBER = 2**53 - 1  # what every program that reads JSON can hold as it is
SMALLEST = 1e-9  # and so nine digits behind the point

#: Keys of a schema with a schema or a list of schemas, and with schemas by name.
_SCHEMA_KEYS = ("items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf")
_NAMED_KEYS = ("properties", "patternProperties", "$defs", "definitions")

_JOINS = {"anyOf", "oneOf", "allOf", "$ref", "patternProperties", "enum", "const"}
#: Keys that allow and refuse nothing.
_NOTES = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
    "$defs",
}

#: Any value of JSON, with numbers that end.
_ANY_NAME = "any-value"
_ANY: dict[str, Any] = {
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER, "multipleOf": SMALLEST},
        {"type": "array", "items": {"$ref": f"#/$defs/{_ANY_NAME}"}},
        {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{_ANY_NAME}"}},
    ]
}

#: Separators, and an escape only where JSON has to have one.
_AS_DUMPS: dict[str, Any] = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def json_rule(schema: Mapping[str, Any], what: str, *, lenient: bool = False) -> str:
    """The JSON values of a schema, in the words of Lark. Raises GrammarError for what is no schema."""
    if not isinstance(schema, Mapping):
        raise GrammarError(f"{what} is {type(schema).__name__}; expected an object, a JSON Schema.")
    try:
        return "%json " + json.dumps({**schema, "x-guidance": {**_AS_DUMPS, "lenient": lenient}}, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise GrammarError(f"{what} has something in it that JSON cannot hold; correct it.") from None


def n_properties(value: object, what: str, depth: int = 0) -> int:
    """How many properties a schema has in all. Raises GrammarError for what would take too long to read."""
    if depth > MAX_DEPTH:
        raise GrammarError(f"{what} has values deeper than {MAX_DEPTH} levels; make it simpler.")
    count = 0
    if isinstance(value, Mapping):
        properties = value.get("properties")
        if isinstance(properties, Mapping):
            count = len(properties)
            if count > MAX_PROPERTIES:
                raise GrammarError(f"{what} has an object with {count} properties; expected at most {MAX_PROPERTIES}.")
        value = list(value.values())
    if isinstance(value, list | tuple):
        count += sum(n_properties(item, what, depth + 1) for item in value)
    return count


def check_count(count: int, what: str) -> None:
    """Raises GrammarError for more properties than a grammar has room for."""
    if count > MAX_PROPERTIES_IN_ALL:
        raise GrammarError(f"{what} have {count} properties; expected at most {MAX_PROPERTIES_IN_ALL}.")


def bounded(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with numbers of at most 16 digits before the point and 9 behind it, where it has no bounds itself.

    Without bounds a model can go on in digits for ever, and write numbers that no program can hold (1e999). Values of
    any kind are bounded too, but for those of objects and lists that are joined of several schemas.
    """
    found = _bound(schema)
    if not isinstance(found, Mapping):
        return schema
    definitions = found.get("$defs", {})
    if not isinstance(definitions, Mapping) or not _has(found, "$ref"):
        return found
    return {**found, "$defs": {**definitions, _ANY_NAME: _ANY}}


def _bound(value: Any) -> Any:
    if value is True or (isinstance(value, Mapping) and not value.keys() - _NOTES):
        return {**(value if isinstance(value, Mapping) else {}), "$ref": f"#/$defs/{_ANY_NAME}"}
    if isinstance(value, list):
        return [_bound(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {
        key: {name: _bound(part) for name, part in item.items()}
        if key in _NAMED_KEYS and isinstance(item, Mapping)
        else _bound(item)
        if key in _SCHEMA_KEYS
        else item
        for key, item in value.items()
    }
    types = found.get("type")
    types = {types} if isinstance(types, str) else set(filter(_is_text, types)) if isinstance(types, list) else set()
    if {"number", "integer"} & types:
        if not {"minimum", "exclusiveMinimum"} & found.keys():
            found["minimum"] = -MAX_NUMBER
        if not {"maximum", "exclusiveMaximum"} & found.keys():
            found["maximum"] = MAX_NUMBER
        if "number" in types:
            found.setdefault("multipleOf", SMALLEST)
    if not _JOINS & found.keys():
        for kind, key in (("object", "additionalProperties"), ("array", "items")):
            if kind in types and key not in found:
                found[key] = _bound(True)
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def closed(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with no further properties allowed in objects that name some, unless they say so themselves.

    Not where schemas are joined that each name some: closing one would shut the others' properties out.
    """
    if _has(parameters, "allOf"):
        return parameters

    def close(schema: Any) -> Any:
        if isinstance(schema, list):
            return [close(item) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        shut = {
            key: {name: close(item) for name, item in value.items()}
            if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping)
            else close(value)
            if key in ("items", "prefixItems", "anyOf", "oneOf", "additionalProperties")
            else value
            for key, value in schema.items()
        }
        choices = [shut.get("anyOf"), shut.get("oneOf")]
        joins = "$ref" in shut or "patternProperties" in shut or _has(choices, "properties", "$ref")
        if "properties" in shut and not joins:
            shut.setdefault("additionalProperties", False)
        return shut

    found: Mapping[str, Any] = close(parameters)
    return found


def is_open(schema: object) -> bool:
    """Whether an object that names properties takes others because it joins schemas, and not by its own word."""
    if isinstance(schema, Mapping):
        here = "properties" in schema and not {"additionalProperties", "patternProperties"} & schema.keys()
        return here or any(map(is_open, schema.values()))
    return isinstance(schema, list | tuple) and any(map(is_open, schema))


def _has(schema: object, *keys: str) -> bool:
    """Whether one of the keys stands anywhere in it."""
    if isinstance(schema, Mapping):
        return any(key in schema for key in keys) or any(_has(value, *keys) for value in schema.values())
    return isinstance(schema, list | tuple) and any(_has(value, *keys) for value in schema)
