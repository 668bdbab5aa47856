"""How ingle-tiny reads tools: one line each, as a function's head. chat_template.jinja writes the same (tested).

As JSON Schema, the eight tools of a test prompt take 3 to 4 times as many tokens, and reading is what costs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

REFUSAL = "None of the tools can do that."


def signature(name: str, description: str, parameters: Mapping[str, Any]) -> str:
    """
    >>> schema = {"properties": {"time": {"type": "string"}, "n": {"type": "integer"}}, "required": ["time"]}
    >>> signature("set_alarm", "Set an alarm.", schema)
    'set_alarm(time*, n: integer): Set an alarm.'
    """
    required = parameters.get("required") or ()
    shown = []
    for argument, schema in (parameters.get("properties") or {}).items():
        mark = "*" if argument in required else ""
        kind = ""
        if "enum" in schema:
            kind = ": " + "|".join(
                v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in schema["enum"]
            )
        elif isinstance(schema.get("type"), str) and schema["type"] != "string":
            kind = ": " + schema["type"]
        shown.append(argument + mark + kind)
    return f"{name}({', '.join(shown)})" + (f": {description}" if description else "")


def system(signatures: Sequence[str]) -> str:
    """What the system turn says of the tools."""
    return "Tools:\n" + "\n".join(signatures)
