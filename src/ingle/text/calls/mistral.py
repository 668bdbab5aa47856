"""Mistral: [TOOL_CALLS] and a list of JSON, or since 2025 [TOOL_CALLS] before each name and [ARGS] behind it.

Source: mistralai/mistral-common, the instruct tokenizers of versions 2 to 13. Their templates want ids of calls that
are nine letters or digits.
"""

from __future__ import annotations

from typing import Final

from ingle.text.calls.form import Form

__all__ = ["MISTRAL", "MISTRAL_LIST"]

MISTRAL_LIST: Final = Form(
    "mistral-list",
    open="[TOOL_CALLS]",
    head='[{"name": "',
    middle='", "arguments": ',
    tail="}]",
    close="",
    again='}, {"name": "',
    fits=r'\[TOOL_CALLS\]\s*\[\s*\{"name": "probe_call"',
)

MISTRAL: Final = Form(
    "mistral",
    open="[TOOL_CALLS]",
    head="",
    middle="[ARGS]",
    tail="",
    close="",
    again="[TOOL_CALLS]",
    skip="[CALL_ID]",
    fits=r"\[TOOL_CALLS\]probe_call",
)
