"""Phi-4-mini: a list of JSON between <|tool_call|> and <|/tool_call|>.

Source: the model card of microsoft/Phi-4-mini-instruct. Its own template has no place for calls that were made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ingle.text.calls.form import Form

__all__ = ["PHI", "PHI_OBJECT"]

PHI: Final = Form(
    "phi",
    open="<|tool_call|>",
    head='[{"name": "',
    middle='", "arguments": ',
    tail="}]",
    close="<|/tool_call|>",
    again='}, {"name": "',
    fits=r"<\|tool_call\|>\s*\[",
)

#: As some templates have it: an object for each call.
PHI_OBJECT: Final = replace(
    PHI,
    name="phi-object",
    head='{"name": "',
    tail="}",
    again='}<|/tool_call|><|tool_call|>{"name": "',
    fits=r"<\|tool_call\|>\s*\{",
)
