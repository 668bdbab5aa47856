"""Conversations as the models made here read them, for training and, as a Jinja template, for everyone who runs them.

ChatML frames each turn (<|im_start|>role ... <|im_end|>). Functions stand in the system turn between <tools> and
</tools>, a call is JSON between <tool_call> and </tool_call> in the assistant's turn, and what it gave back is a turn
of the role "tool" between <tool_response> and </tool_response>: the words of Hermes and Qwen, which others know too.

Learnt is what the assistant writes: its text, its calls, and the <|im_end|> after them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ingle.errors import DataError
from ingle.train.data.document import Segment, well_formed

__all__ = ["CHAT_TEMPLATE", "CONTROL_TOKENS", "IM_END", "IM_START", "MARKUP_TOKENS", "ROLES", "segments"]

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
#: The frame of a conversation: control tokens, which no text can become.
CONTROL_TOKENS = ("<|endoftext|>", IM_START, IM_END)
#: What marks calls and their results: visible in an answer, so that programs find the calls in it.
MARKUP_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

ROLES = ("system", "user", "assistant", "tool")
_SAME_ROLE = {"developer": "system", "function": "tool"}

_TOOLS_BEGIN = "You can call these functions:\n<tools>\n"
_TOOLS_END = (
    "</tools>\nTo call one, write its name and its arguments as JSON:\n"
    '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
)

CHAT_TEMPLATE = (
    """\
{%- set system = messages[0].content if messages[0].role in ('system', 'developer') else '' %}
{%- if tools or messages[0].role in ('system', 'developer') %}
    {{- '<|im_start|>system\\n' + system }}
    {%- if tools %}
        {{- '\\n\\n' if system else '' }}
        {{- """
    + repr(_TOOLS_BEGIN)
    + """ }}
        {%- for tool in tools %}
            {{- (tool.function if tool.function is defined else tool) | tojson }}
            {{- '\\n' }}
        {%- endfor %}
        {{- """
    + repr(_TOOLS_END)
    + """ }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role in ('tool', 'function') %}
        {{- '<|im_start|>tool\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = (message.content or '') | trim %}
        {{- '<|im_start|>assistant\\n' + content }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '\\n' if content or not loop.first else '' }}
            {{- '<tool_call>\\n{"name": ' + call.name | tojson + ', "arguments": ' }}
            {{- call.arguments if call.arguments is string else (call.arguments or {}) | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif not loop.first or message.role not in ('system', 'developer') %}
        {{- raise_exception('A ' + message.role + ' message cannot stand here') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
)


def segments(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
) -> tuple[Segment, ...]:
    """A conversation in OpenAI's words as segments; joined, they are what CHAT_TEMPLATE renders.

    Roles: system (first, if at all), user, assistant, tool. An assistant's `tool_calls` may have their arguments as
    JSON text or as an object; its "weight" 0 leaves the turn out of what is learnt. Functions in `tools` may stand in
    OpenAI's {"type": "function", "function": ...} or alone. The whitespace around an assistant's text is left out.
    After a call comes what it gave back or, where a program carried it out and said nothing, what the user says next.
    Raises DataError for messages that are none, turns out of order, and conversations without an assistant's turn.
    """
    turns = [_Turn(message, number) for number, message in enumerate(messages, start=1)]
    _expect_order(turns)
    found: list[Segment] = []
    functions = [_function(tool) for tool in tools or ()]
    system = turns[0].content if turns[0].role == "system" else ""
    if functions or turns[0].role == "system":
        found += [_frame(f"{IM_START}system\n"), _read(system)]
        if functions:
            listed = "".join(f"{_json(function)}\n" for function in functions)
            found += [_read("\n\n" if system else ""), _frame(_TOOLS_BEGIN), _read(listed), _frame(_TOOLS_END)]
        found.append(_frame(f"{IM_END}\n"))
    for turn in turns:
        if turn.role == "user":
            found += [_frame(f"{IM_START}user\n"), _read(turn.content), _frame(f"{IM_END}\n")]
        elif turn.role == "tool":
            found += [_frame(f"{IM_START}tool\n<tool_response>\n"), _read(turn.content)]
            found.append(_frame(f"\n</tool_response>{IM_END}\n"))
        elif turn.role == "assistant":
            found += [_frame(f"{IM_START}assistant\n"), *turn.answer(), _frame("\n")]
    return tuple(segment for segment in _joined(found) if segment.text)


class _Turn:
    """A message, checked."""

    def __init__(self, message: object, number: int) -> None:
        self.where = f"message {number}"
        if not isinstance(message, Mapping):
            raise DataError(f"{self.where} is {type(message).__name__}; expected an object with role and content.")
        role = message.get("role")
        self.role = _SAME_ROLE.get(role, role) if isinstance(role, str) else None
        if self.role not in ROLES:
            raise DataError(f"{self.where} has the role {role!r}; expected one of {', '.join(ROLES)}.")
        content = message.get("content")
        self.content = _content(content, self.where, as_json=self.role == "tool")
        calls = message.get("tool_calls")
        if calls is not None and not isinstance(calls, list):
            raise DataError(f"{self.where} has tool_calls that are {type(calls).__name__}; expected a list.")
        self.calls = [_call(call, self.where) for call in calls or ()]
        self.learn = message.get("weight") != 0
        if self.role != "assistant":
            if self.calls:
                raise DataError(f"{self.where} has tool_calls, but is of the {self.role}; only the assistant calls.")
            return
        self.content = self.content.strip()
        if not self.content and not self.calls:
            raise DataError(f"{self.where} of the assistant has neither text nor a tool call; take it out.")

    def answer(self) -> Iterator[Segment]:
        """What the assistant writes, to its end."""
        yield Segment(self.content, self.learn)
        for number, call in enumerate(self.calls):
            between = "\n" if self.content or number else ""
            yield Segment(f"{between}<tool_call>\n", self.learn, special=True)
            yield Segment(call, self.learn)
            yield Segment("\n</tool_call>", self.learn, special=True)
        yield Segment(IM_END, self.learn, special=True)


def _expect_order(turns: Sequence[_Turn]) -> None:
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError("this conversation has no turn of the assistant, so there is nothing to learn in it.")
    follows: dict[str | None, tuple[str, ...]] = {
        None: ("system", "user"),
        "system": ("user",),
        "user": ("assistant",),
        "assistant": ("user",),
        "tool": ("assistant", "tool"),
    }
    before: str | None = None
    for turn in turns:
        wanted = follows[before]
        if turn.role not in wanted:
            after = "at the beginning" if before is None else f"after the {before}"
            raise DataError(
                f"{turn.where} is of the {turn.role} {after}, where expected was one of {' or '.join(wanted)}; "
                "correct the order."
            )
        before = turn.role
        follows["assistant"] = ("tool", "user") if turn.calls else ("user",)


def _content(value: object, where: str, *, as_json: bool) -> str:
    if isinstance(value, list) and all(isinstance(part, str | Mapping) for part in value) and not as_json:
        parts = [part if isinstance(part, str) else part.get("text") for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) != len(parts):
            raise DataError(f"{where} has a part that is not text; only text can be learnt here.")
        value = "".join(texts)
    if value is not None and not isinstance(value, str):
        if as_json and isinstance(value, Mapping | list):
            return well_formed(_json(value))
        raise DataError(f"{where} has a content that is {type(value).__name__}; expected a text.")
    return well_formed(value or "")


def _call(call: object, where: str) -> str:
    """A call as JSON, as the template writes it."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where} has a tool call without a name; expected an object with name and arguments.")
    name, arguments = function["name"], function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise DataError(f"{where} calls {name} with arguments that are not JSON; correct them.") from None
    if not isinstance(arguments, Mapping | None):
        raise DataError(f"{where} calls {name} with arguments that are no object; name each argument.")
    return f'{{"name": {_json(name)}, "arguments": {_json(arguments or {})}}}'


def _function(tool: object) -> Mapping[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError("tools has a function without a name; expected objects with name, description and parameters.")
    return function


def _json(value: object) -> str:
    try:
        return well_formed(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise DataError("a tool or a call holds something that JSON cannot; correct it.") from None


def _frame(text: str) -> Segment:
    return Segment(text, learn=False, special=True)


def _read(text: str) -> Segment:
    return Segment(text, learn=False)


def _joined(found: Sequence[Segment]) -> Iterator[Segment]:
    """Neighbours of one kind as one."""
    last: Segment | None = None
    for segment in found:
        if not segment.text:
            continue
        if last is not None and (last.learn, last.special) == (segment.learn, segment.special):
            last = Segment(last.text + segment.text, last.learn, last.special)
            continue
        if last is not None:
            yield last
        last = segment
    if last is not None:
        yield last
