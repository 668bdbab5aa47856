"""Arguments as Qwen3-Coder writes them: a tag for each, texts as they are and everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ingle.text.calls.reader import BrokenCallError, Machine, spaceless
from ingle.text.calls.strict import decoded, well_formed

__all__ = ["PARAMETER_END", "is_text", "read_parameters"]

PARAMETER_END = "</parameter>"
MAX_KEY = 256


def is_text(schema: object) -> bool:
    """Whether a schema has texts and nothing else, so that "3" is no number."""
    if not isinstance(schema, Mapping):
        return False
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return all(isinstance(value, str) for value in values)
    return schema.get("type") == "string"


def read_parameters(parameters: Mapping[str, Any], tell: list[str]) -> Machine[dict[str, Any]]:
    """The arguments up to </function>; `tell` gets them as JSON, each as it ends. parameters: their schema."""
    properties = parameters.get("properties")
    schemas = properties if isinstance(properties, Mapping) else {}
    found: dict[str, Any] = {}
    while True:
        item = yield from spaceless()
        if item != "<":
            raise BrokenCallError("has a parameter without a tag")
        tag = yield from _until(">", MAX_KEY)
        if tag == "/function":
            tell.append("}" if found else "{}")
            return found
        kind, _, key = tag.partition("=")
        key = well_formed(key.strip())
        if kind != "parameter" or not key or key in found:
            raise BrokenCallError("has a tag that is no parameter")
        value = _value((yield from _until(PARAMETER_END)), is_text(schemas.get(key)))
        tell.append(f"{', ' if found else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        tell.append(json.dumps(value, ensure_ascii=False))
        found[key] = value


def _value(text: str, as_text: bool) -> Any:
    text = text.removeprefix("\n").removesuffix("\n")
    if as_text:
        return well_formed(text)
    try:
        return decoded(text)
    except ValueError:
        return well_formed(text)


def _until(end: str, most: int | None = None) -> Machine[str]:
    """The text up to `end`, which is read as well."""
    read: list[str] = []
    while "".join(read[-len(end) :]) != end:
        item = yield
        if item is None or len(item) > 1 or (most is not None and len(read) > most):
            raise BrokenCallError("has a tag without an end")
        read.append(item)
    return "".join(read[: -len(end)])
