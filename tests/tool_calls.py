"""Calls as the chat template has models write them, for models of script and for what reads their answers."""

from __future__ import annotations

import json


def call(name: str, arguments: object = None, /, **named: object) -> str:
    """The text of one call, its arguments by name. `arguments` in their place may be any JSON value, right or wrong."""
    record = {"name": name, "arguments": named if arguments is None else arguments}
    return f"<tool_call>\n{json.dumps(record, ensure_ascii=False)}\n</tool_call>"
