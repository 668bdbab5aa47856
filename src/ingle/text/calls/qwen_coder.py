"""Qwen3-Coder, Qwen 3.5 and Nemotron 3: tags for the function and for each parameter, texts as they are."""

from __future__ import annotations

from typing import Final

from ingle.text.calls.form import Form

__all__ = ["QWEN_CODER"]

QWEN_CODER: Final = Form(
    "qwen-coder",
    open="<tool_call>",
    head="\n<function=",
    middle=">\n",
    tail="</function>\n",
    close="</tool_call>",
    again="</function>\n</tool_call>\n<tool_call>\n<function=",
    xml=True,
    fits=r"<tool_call>\s*<function=probe_call>",
)
