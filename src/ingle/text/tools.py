"""Tools that a model may call, and the calls that it writes.

A tool is described as in the OpenAI API: a name, a description, and its parameters as a JSON Schema of an object. A
call stands in the model's answer as JSON between <tool_call> and </tool_call>, as Hermes and Qwen write it and the
models made here do. Only answers are searched for calls: what a person types is never one, whatever it looks like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ingle.errors import UsageError

__all__ = ["CALL_BEGIN", "CALL_END", "FoundCalls", "Tool", "ToolCall", "find_calls", "read_tools"]

CALL_BEGIN: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"

MAX_TOOLS = 1024
MAX_CHARACTERS = 1 << 20  # of all tools together, as JSON
MAX_DEPTH = 64  # of values within values, in a schema
MAX_NAME = 256

#: What test sets and Python programs call the types of JSON Schema. "any" is no type at all, so every value fits.
_SAME_TYPE = {
    "dict": "object",
    "float": "number",
    "double": "number",
    "tuple": "array",
    "list": "array",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
#: Keys of a schema with a schema, a list of schemas, or schemas by name.
_SCHEMA_KEYS = ("items", "additionalProperties", "additionalItems", "contains", "not", "propertyNames")
_LIST_KEYS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_KEYS = ("properties", "patternProperties", "$defs", "definitions")
_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call. parameters: JSON Schema of an object, one property for each argument."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(_NO_PARAMETERS))

    def as_openai(self) -> dict[str, Any]:
        """As in the `tools` of the OpenAI API, which chat templates read too."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made. Its arguments are JSON values; nobody has checked them against a schema."""

    name: str
    arguments: dict[str, Any]

    def to_json(self) -> str:
        """One line, as chat templates write a call: {"name": ..., "arguments": {...}}."""
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class FoundCalls:
    """What an answer says. text: what stands outside of calls, trimmed. problems: a sentence for each broken call."""

    calls: list[ToolCall]
    text: str
    problems: list[str]


def read_tools(value: object, where: str) -> list[Tool]:
    """The tools in a value from JSON; `where` names its source in errors.

    Taken are the OpenAI API's list of {"type": "function", "function": {...}}, a list of bare functions, an object
    whose "tools" is such a list, and one function alone; nothing (None, []) is no tools. The types that BFCL and Python
    have ("dict", "float", "tuple", "any" ...) become those of JSON Schema. Raises UsageError for anything else, for two
    tools with one name, and for more than 1024 tools or 2^20 characters.
    """
    if isinstance(value, Mapping):
        value = value.get("tools", [value])
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise UsageError(f"{where} has {_kind(value)} where expected was a list of tools, each an object with a name.")
    if len(value) > MAX_TOOLS:
        raise UsageError(f"{where} has {len(value)} tools; expected at most {MAX_TOOLS}.")
    tools = [_tool(item, f"{where}, tool {number}") for number, item in enumerate(value, start=1)]
    names: set[str] = set()
    for tool in tools:
        if tool.name in names:
            raise UsageError(f"{where} has two tools with the name {tool.name}; give each a name of its own.")
        names.add(tool.name)
    try:
        size = len(json.dumps([tool.as_openai() for tool in tools], allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise UsageError(f"{where} has a tool with something in it that JSON cannot hold; correct it.") from None
    if size > MAX_CHARACTERS:
        raise UsageError(f"{where} has tools of {size} characters; expected at most {MAX_CHARACTERS}.")
    return tools


def _tool(value: object, where: str) -> Tool:
    function = value.get("function", value) if isinstance(value, Mapping) else value
    if not isinstance(function, Mapping):
        raise UsageError(f"{where} is {_kind(function)}; expected an object with name, description and parameters.")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise UsageError(f"{where} has the name {str(name)[:80]!r}; expected 1 to {MAX_NAME} characters that print.")
    where = f"{where} ({name})"
    if not isinstance(description, str | None):
        raise UsageError(f"{where} has a description that is {_kind(description)}; expected a text.")
    parameters = function.get("parameters")
    if parameters is None:
        return Tool(name, description or "")
    if not isinstance(parameters, Mapping):
        raise UsageError(f"{where} has parameters that are {_kind(parameters)}; expected a JSON Schema of an object.")
    schema = _schema(parameters, where, 0)
    if schema.setdefault("type", "object") != "object":
        raise UsageError(f"{where} has parameters of the type {schema['type']!r}; expected a JSON Schema of an object.")
    schema.setdefault("properties", {})
    return Tool(name, description or "", schema)


def _schema(value: object, where: str, depth: int) -> Any:
    """A copy of a schema with the types of JSON Schema."""
    if depth > MAX_DEPTH:
        raise UsageError(f"{where} has a schema deeper than {MAX_DEPTH} levels; make it simpler.")
    if not isinstance(value, Mapping):
        return value  # true and false are schemas; what else is none, the grammar will say
    schema: dict[str, Any] = {}
    for key, item in value.items():
        if key == "type":
            if (known := _type(item, where)) is not None:
                schema[key] = known
        elif key in _SCHEMA_KEYS:
            schema[key] = _schema(item, where, depth + 1)
        elif key in _LIST_KEYS and isinstance(item, list):
            schema[key] = [_schema(part, where, depth + 1) for part in item]
        elif key in _NAMED_KEYS:
            if not isinstance(item, Mapping):
                raise UsageError(f"{where} has {key} that are {_kind(item)}; expected an object of schemas by name.")
            schema[key] = {str(name): _schema(part, where, depth + 1) for name, part in item.items()}
        else:
            schema[str(key)] = item
    return schema


def _type(value: object, where: str) -> str | list[str] | None:
    """A type, or several, by JSON Schema's names; None where every value fits."""
    if isinstance(value, list) and value:
        types = [_type(item, where) for item in value if not isinstance(item, list)]
        if len(types) == len(value):
            return None if None in types else [str(item) for item in types]
    elif isinstance(value, str):
        name = _SAME_TYPE.get(value, value)
        if name == "any":
            return None
        if name in _TYPES:
            return name
    raise UsageError(f"{where} has the type {str(value)[:80]!r}; expected one of {', '.join(_TYPES)}.")


def find_calls(text: str) -> FoundCalls:
    """The calls in a model's answer, in order, what stands outside of them, and what is wrong with the others.

    Arguments may be an object, or a text that is one as JSON; absent ones are none. A call that is cut off, is not JSON
    or has no name is a problem and no call. Never raises. For the calls of other families see `ingle.text.calls`.
    """
    from ingle.text.calls.hermes import HERMES
    from ingle.text.calls.scanner import CallScanner

    scanner = CallScanner(HERMES)
    scanner.push(text)
    scanner.finish()
    return scanner.found


def _kind(value: object) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    known: tuple[tuple[Any, str], ...] = ((bool, "a truth value"), (str, "a text"), (int | float, "a number"))
    return next((name for kind, name in known if isinstance(value, kind)), f"a {type(value).__name__}")
