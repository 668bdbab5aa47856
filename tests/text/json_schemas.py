"""A small validator of JSON Schema, for what the tests use: it shares nothing with what makes the grammars."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def fits(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value is by the schema."""
    if "anyOf" in schema and not any(fits(value, part) for part in schema["anyOf"]):
        return False
    if "enum" in schema and not any(same(value, allowed) for allowed in schema["enum"]):
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(is_a(value, kind) for kind in kinds):
        return False
    if isinstance(value, str):
        return bool(re.search(schema.get("pattern", ""), value)) and len(value) <= schema.get("maxLength", 1 << 60)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, list):
        within = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 60)
        return within and all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not all(name in value for name in schema.get("required", [])):
            return False
        return all(
            fits(item, properties[name])
            if name in properties
            else more is not False and (more is True or fits(item, more))
            for name, item in value.items()
        )
    return True


def is_a(value: object, kind: str) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)
