"""Gemma 2 and 3: no markup of their own. Told so, they write an object of JSON, mostly in a fence.

Source: ai.google.dev/gemma/docs/capabilities/function-calling, which has the object with "name" and "parameters" and
says that an answer which calls should have nothing else in it. Fences with "json" and bare objects are taken as well.
"""

from __future__ import annotations

from typing import Final

from ingle.text.calls.form import Form, Opening

__all__ = ["GEMMA"]

GEMMA: Final = Form(
    "gemma",
    open="```tool_code",
    head='\n{"name": "',
    middle='", "parameters": ',
    tail="}\n",
    close="```",
    again='}\n```\n```tool_code\n{"name": "',
    also=(Opening("```json", "```"), Opening("", "")),
    fits=r'```tool_code\s*\{"name": "probe_call"',
    words="If you decide to call one, write nothing but its name and its parameters as JSON, in this form:",
)
