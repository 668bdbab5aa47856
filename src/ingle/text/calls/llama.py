"""Llama 3.1 to 3.3: an answer that is one object of JSON and nothing else; some write <|python_tag|> before it.

Source: meta-llama/llama-models, models/llama3_1/prompt_format.md and models/llama3_2/text_prompt_format.md.
"""

from __future__ import annotations

from typing import Final

from ingle.text.calls.form import Form, Opening

__all__ = ["LLAMA"]

LLAMA: Final = Form(
    "llama",
    open="",
    head='{"name": "',
    middle='", "parameters": ',
    tail="}",
    close="",
    again='}; {"name": "',
    also=(Opening("<|python_tag|>", ""),),
    many=False,
    fits=r'\{"name": "probe_call", "parameters": ',
)
