"""Hermes 2 and 3, Qwen 2.5 and 3, Granite 4, and the models made here: an object of JSON between <tool_call> tags."""

from __future__ import annotations

from typing import Final

from ingle.text.calls.form import Form

__all__ = ["HERMES"]

HERMES: Final = Form(
    "hermes",
    open="<tool_call>",
    head='\n{"name": "',
    middle='", "arguments": ',
    tail="}\n",
    close="</tool_call>",
    again='}\n</tool_call>\n<tool_call>\n{"name": "',
    fits=r'<tool_call>\s*\{"name": "probe_call", "arguments": ',
)
