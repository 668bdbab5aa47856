"""A chat template from outside, tried before it goes into a file that others open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingle.errors import TemplateError, UsageError
from ingle.files import read_bytes
from ingle.text import Message
from ingle.text.budget import MAX_CHARACTERS
from ingle.text.sandbox import CompiledTemplate

__all__ = ["expect_chat_template", "read_chat_template"]

# Nine letters and digits: some templates take no other id of a call.
_CALL: dict[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "probe_call", "arguments": {"city": "probe7"}},
}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe_call",
        "description": "probe8",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_TALK: list[Message] = [
    {"role": "user", "content": "probe1"},
    {"role": "assistant", "content": "probe2"},
    {"role": "user", "content": "probe3"},
]
_CALLING: list[Message] = [
    {"role": "user", "content": "probe4"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call00001", "name": "probe_call", "content": "probe5"},
    {"role": "assistant", "content": "probe6"},
]


def read_chat_template(path: Path) -> str:
    """The template in a file of UTF-8. Raises UsageError for a file that cannot be read, TemplateError as below."""
    try:
        text = read_bytes(path, 4 * MAX_CHARACTERS, UsageError, "expected a chat template").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"The chat template {path} is not a text in UTF-8; give a Jinja template.") from None
    expect_chat_template(text)
    return text


def expect_chat_template(source: str) -> None:
    """Raise TemplateError unless the Jinja text `source` writes out, in our sandbox, what a conversation says.

    Tried are a few turns; where the template reads `tools`, a function as well; where it reads `tool_calls`, a call
    and what it gave back.
    """
    template = CompiledTemplate(source)
    tools = [_TOOL] if "tools" in source else None
    _expect(template, _TALK, ["probe1", "probe2", "probe3"], None)
    if tools:
        _expect(template, _TALK, ["probe1", "probe2", "probe3", "probe_call"], tools)
    if "tool_calls" in source:
        _expect(template, _CALLING, ["probe4", "probe_call", "probe7", "probe5", "probe6"], tools)


def _expect(
    template: CompiledTemplate,
    messages: Sequence[Message],
    words: Sequence[str],
    tools: Sequence[Mapping[str, Any]] | None,
) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "tools": tools, "documents": None}
    text = template.render({**names, "messages": messages}, 0)
    for word in words:
        if word not in text:
            what = "the name of a function" if word == "probe_call" else _said_by(word, messages)
            raise TemplateError(f"The chat template leaves out {what}; give one that has it.")


def _said_by(word: str, messages: Sequence[Message]) -> str:
    role = next((message["role"] for message in messages if message["content"] == word), None)
    return f"what a message of the {role} says" if role else "the arguments of a call"
