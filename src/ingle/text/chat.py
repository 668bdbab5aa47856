"""Conversations as the model was taught to read them.

A chat template is a Jinja program in the model file. What people write goes through it into one text with the model's
control tokens, and must not be able to bring control tokens of its own. `ChatTemplate.encode_chat` sees to that: a
character that occurs nowhere in the conversation, the marker, is put into everything in a message that reads like a
control token, and around each message; control tokens are then only found where no marker breaks them, and the markers
taken out again.

Its limits. A template that looks into a message for control tokens does not find them there. A template that takes
messages apart (other than trimming them) may lose the outer markers; then they are left away, and a control token could
be made of the end of the template's own text and the beginning of a message. Tokens that the vocabulary calls "user
defined" (such as "<think>" in Qwen 3) are ordinary text to all this, as they are to the models' own tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

from ingle.errors import TemplateError, UsageError
from ingle.text.calls.history import with_calls
from ingle.text.calls.probe import Habits, probe
from ingle.text.fallbacks import fallback_template
from ingle.text.sandbox import CompiledTemplate
from ingle.text.tokenizer import Tokenizer

__all__ = ["ROLES", "ChatTemplate", "Message"]

#: "role", "content" (a text, or a list of text parts), and what else a template may know ("tool_calls", "name" ...).
Message: TypeAlias = Mapping[str, Any]

#: Templates write roles into control tokens ("<|" + role + "|>"), so no others are let through.
ROLES = ("system", "developer", "user", "assistant", "model", "tool", "function", "ipython", "context", "document")


class ChatTemplate:
    """A model's chat template, or a fallback; `stops` are strings that end an answer besides the model's end tokens.

    Raises TemplateError if the template is not sound.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, *, tool_source: str | None = None, stops: tuple[str, ...] = ()
    ) -> None:
        self.source = source
        self.stops = stops
        self._tokenizer = tokenizer
        self._template = CompiledTemplate(source)
        self._tool_template = CompiledTemplate(tool_source) if tool_source else self._template
        self._has_tool_template = bool(tool_source)
        self._sources = source + (tool_source or "")
        self._has_developer = "developer" in source

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate:
        """The template in `tokenizer.chat_template`, or the fallback that the vocabulary's control tokens call for.

        Raises TemplateError if the template is not sound.
        """
        source = metadata.get("tokenizer.chat_template")
        if not isinstance(source, str) or not source.strip():
            source, stops = fallback_template(tokenizer.control_tokens)
            return cls(source, tokenizer, stops=stops)
        tool_source = metadata.get("tokenizer.chat_template.tool_use")
        return cls(source, tokenizer, tool_source=tool_source if isinstance(tool_source, str) else None)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that it was made with."""
        return self._tokenizer

    @cached_property
    def habits(self) -> Habits:
        """What the template does with tools and calls, found by trying it."""
        found = probe(
            lambda messages, tools, begin: self._render(messages, begin, tools, {}), self._tokenizer, self.source
        )
        return replace(found, tells_tools=True) if self._has_tool_template else found

    @property
    def takes_tools(self) -> bool:
        """Whether the template tells the model of tools; where it does not, the system message does."""
        return self.habits.tells_tools or self.habits.tools_in_system

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The conversation as one text, with control tokens written out.

        `variables` are further names for the template (such as enable_thinking). If the template refuses a conversation
        that begins with a system message (Gemma's and older Mistral templates do), that message is put before the first
        user message, two line breaks between them. Tools that it has no place for are put at the end of the system
        message, in the words of the model's family; calls and results are as `with_calls` has them.
        To get tokens use `encode_chat`: this text cannot be encoded safely.
        Raises UsageError for messages that are none, TemplateError if the template refuses or fails.
        """
        checked, tools = self._with_tools(self._checked(messages), _jsonable(tools))
        return self._render(checked, add_generation_prompt, tools, variables or {})

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> list[int]:
        """The token ids of the conversation, with one BOS if the model wants one.

        Nothing in a message becomes a control token; the module's text says how, and the limits. Arguments and errors
        as for `render`.
        """
        checked, tools = self._with_tools(self._checked(messages), _jsonable(tools))
        marker = _unused_character([self.source, checked, tools])
        inner = [{key: v if key == "role" else self._broken(v, marker) for key, v in m.items()} for m in checked]
        tools = self._broken(tools, marker)
        outer = [{**m, "content": _surrounded(m["content"], marker)} for m in inner]
        text = self._render(inner, add_generation_prompt, tools, variables or {})
        try:
            surrounded = self._render(outer, add_generation_prompt, tools, variables or {})
        except TemplateError:
            surrounded = ""
        if surrounded.replace(marker, "") == text.replace(marker, ""):
            text = surrounded
        ids = self._tokenizer.encode_rendered(text, marker, add_special=False)
        bos = self._tokenizer.bos_id
        return [bos, *ids] if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos] else ids

    def _render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, tools: Any, variables: Mapping[str, object]
    ) -> str:
        template = self._tool_template if tools else self._template
        size = sum(map(len, _strings([messages, tools])))
        names: dict[str, object] = {
            **variables,
            "bos_token": self._text_of(self._tokenizer.bos_id),
            "eos_token": self._text_of(self._tokenizer.eos_id),
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": None,
        }
        try:
            return template.render({**names, "messages": messages}, size)
        except TemplateError:
            folded = _fold_system(messages)
            if folded is None:
                raise
            return template.render({**names, "messages": folded}, size)

    def _checked(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if not messages:
            raise UsageError("Expected at least one message, got none.")
        checked = [_checked_message(message) for message in messages]
        for message in checked:
            if message["role"] == "developer" and not self._has_developer:
                message["role"] = "system"
        return checked

    def _with_tools(self, messages: list[dict[str, Any]], tools: Any) -> tuple[list[dict[str, Any]], Any]:
        """Messages and tools as the template can take them; no tools are None, which is what templates look for."""
        if any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
            messages = with_calls(messages, self.habits)
        habits = self.habits if tools else None
        if habits is None or (habits.tells_tools and habits.tells_form):
            return messages, tools or None
        system, rest = ({"role": "system", "content": ""}, messages)
        if messages[0]["role"] == "system":
            system, *rest = messages
        if habits.tools_in_system:
            system = {**system, "tools": json.dumps([tool.get("function", tool) for tool in tools], ensure_ascii=False)}
        told = habits.form.explained() if self.takes_tools else habits.form.told(tools)
        if not (habits.tools_in_system and habits.tells_form):
            system = {**system, "content": f"{system['content']}\n\n{told}".lstrip("\n")}
        return [system, *rest], tools if habits.tells_tools else None

    def _broken(self, value: Any, marker: str) -> Any:
        """`value` with a marker in every text within it that reads like a control token."""
        if isinstance(value, str):
            return self._tokenizer.break_control(value, marker)
        if isinstance(value, dict):
            return {self._broken(key, marker): self._broken(item, marker) for key, item in value.items()}
        return [self._broken(item, marker) for item in value] if isinstance(value, list) else value

    def _text_of(self, token_id: int | None) -> str:
        return "" if token_id is None else self._tokenizer.token_text(token_id)


def _checked_message(message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, Mapping) else message
        raise UsageError(f"Expected messages with a role among {', '.join(ROLES)}, got {role!r}.")
    checked: dict[str, Any] = _jsonable(dict(message))
    content = checked.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) != len(parts):
            raise UsageError("Expected message parts with text, got another kind of part; this model reads text only.")
        content = "".join(texts)
    if content is not None and not isinstance(content, str):
        raise UsageError(f"Expected a text as the content of a message, got {type(content).__name__}.")
    checked["content"] = content or ""  # None (beside tool calls) would be written out as "None" by some templates
    for call in checked.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            # The OpenAI API has the arguments as a text of JSON; templates expect the object, to write it their way.
            try:
                function["arguments"] = json.loads(function["arguments"])
            except (ValueError, RecursionError):
                raise UsageError("Expected JSON in the arguments of a tool call, got something else.") from None
    return checked


def _jsonable(value: Any) -> Any:
    """A copy of `value` made of dicts, lists, texts, numbers; UsageError for anything that JSON cannot hold."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        raise UsageError("Expected messages and tools that JSON can hold, got something else in them.") from None


def _fold_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The messages with a leading system message put into the first user message; None if there is none."""
    if messages[0]["role"] != "system":
        return None
    system, rest = messages[0]["content"], messages[1:]
    for position, message in enumerate(rest):
        if message["role"] == "user":
            joined = {**message, "content": f"{system}\n\n{message['content']}"}
            return [*rest[:position], joined, *rest[position + 1 :]]
    return [{"role": "user", "content": system}, *rest]


def _surrounded(text: str, marker: str) -> str:
    """A marker before the first and after the last character that is not whitespace: trimming does not reach them."""
    inner = text.strip()
    if not inner:
        return text
    start = text.index(inner)
    return f"{text[:start]}{marker}{inner}{marker}{text[start + len(inner) :]}"


def _unused_character(values: object) -> str:
    """A character that occurs nowhere in `values`: a noncharacter, which no text should have, if one is free."""
    used = {character for text in _strings(values) for character in text if character >= "\ufdd0"}
    return next(c for c in map(chr, chain(range(0xFDD0, 0xFDF0), range(0xF0000, 0x10FFFE))) if c not in used)


def _strings(value: object) -> Iterator[str]:
    """Every text in a value made of dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
