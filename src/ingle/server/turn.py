"""One turn of a conversation: what the model is asked, and what its answer turns out to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ingle.engine.generate import Request
from ingle.engine.token import Token
from ingle.errors import UsageError
from ingle.server.errors import ApiError
from ingle.server.options import params_of, stops_of
from ingle.server.schemas import Generating
from ingle.server.served import Served
from ingle.text.calls import CallDelta as FoundDelta
from ingle.text.calls import Family, new_id
from ingle.text.calls.lark import Mode
from ingle.text.grammar import Grammar
from ingle.text.tools import Tool, read_tools

__all__ = ["CallDelta", "Choice", "Finish", "Piece", "Turn", "tools_of"]

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked.

    messages: as chat templates read them. choice: whether it may or must call tools. named: the one that it must call.
    many: whether there may be several calls. format: what the text must be, as a `response_format` of chat completions.
    variables: further names for the template.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Tool] = ()
    choice: Mode = "auto"
    named: str | None = None
    many: bool = True
    format: Mapping[str, Any] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)

    @property
    def calls(self) -> bool:
        """Whether the answer may have calls."""
        return bool(self.tools) and (self.choice != "none" or self.named is not None)

    def request(self, served: Served, body: Generating, *, max_tokens: int | None, n_top: int) -> Request:
        """What the engine is asked. It takes long for long conversations and large schemas: not for the event loop.

        Raises ApiError, UsageError, GrammarError and TemplateError.
        """
        params = params_of(body, served.model.spec.n_vocab, calls=self.calls)
        grammar = self._grammar(served.family)
        template = served.model.template
        for name in self.variables:
            if name not in template.source:
                raise ApiError(f"This model's chat template has no use for {name}; leave it out.", param=name)
        tools = [tool.as_openai() for tool in self.tools] if self.calls else None
        prompt = template.encode_chat(_one_system(self.messages), tools=tools, variables=self.variables)
        return Request(
            prompt,
            params=params,
            max_tokens=max_tokens,
            stop=(*stops_of(body), *template.stops),
            grammar=grammar,
            continuation=False,
            exact=params.seed is not None,
            n_top=n_top,
        )

    def _grammar(self, family: Family) -> Grammar | None:
        """What the answer may be; None = anything."""
        if not self.tools:
            if self.choice not in ("auto", "none"):
                raise ApiError("tool_choice asks for a call, but there are no tools; give some.", param="tool_choice")
            return Grammar.response_format(self.format)
        if self.named is not None and self.named not in {tool.name for tool in self.tools}:
            raise ApiError(
                f"tool_choice names {self.named[:80]!r}, which is none of the tools; name one of them.",
                param="tool_choice",
                code="invalid_value",
            )
        if self.named is not None:
            return family.grammar(self.tools, "required", many=False, only=self.named)
        if self.format is not None and self.choice == "auto":
            raise ApiError(
                "An answer that follows a schema and may also be a call is not supported; set tool_choice to none or "
                "required, or leave tools or the schema out.",
                param="tool_choice",
                code="unsupported_parameter",
            )
        if self.format is not None and self.choice == "none":
            return Grammar.response_format(self.format)
        return family.grammar(self.tools, self.choice, self.many)


def tools_of(value: Sequence[Mapping[str, Any]]) -> list[Tool]:
    """The tools of a request, as chat completions have them. Raises ApiError."""
    try:
        return read_tools(list(value), "tools")
    except UsageError as error:
        raise ApiError(str(error), param="tools", code="invalid_value") from None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of the call number `index`: with its id and name where it begins, then more of its arguments' JSON."""

    index: int
    arguments: str
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a token added that a client can be told. tokens: those that it is made of."""

    text: str
    calls: tuple[CallDelta, ...]
    tokens: tuple[Token, ...]
    finish: Finish | None

    def __bool__(self) -> bool:
        return bool(self.text or self.calls or self.finish)


class Choice:
    """An answer while it is made."""

    def __init__(self, turn: Turn, family: Family) -> None:
        self._scanner = family.scanner(turn.tools) if turn.calls else None
        self._waiting: list[Token] = []
        self._n_calls = 0

    def push(self, token: Token) -> Piece:
        """The next token. Pieces that are false say nothing; their tokens come with a later one."""
        if token.finish_reason != "eos":
            self._waiting.append(token)
        text, calls = token.text, list[CallDelta]()
        if self._scanner is not None:
            found = [self._scanner.push(token.text, token.token_id)]
            if token.finish_reason is not None:
                found.append(self._scanner.finish())
            text = "".join(one.text for one in found)
            calls = [_with_id(call) for one in found for call in one.calls]
        self._n_calls += sum(bool(call.name) for call in calls)
        finish: Finish | None = None
        if token.finish_reason is not None:
            finish = "length" if token.finish_reason == "length" else "tool_calls" if self._n_calls else "stop"
        piece = Piece(text, tuple(calls), tuple(self._waiting), finish)
        if piece:
            self._waiting.clear()
        return piece


def _one_system(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Instructions and a system message at the beginning as one: templates have a place for one only."""
    n_system = next((i for i, message in enumerate(messages) if message["role"] not in ("system", "developer")), 0)
    if n_system < 2:
        return messages
    joined = "\n\n".join(message["content"] for message in messages[:n_system])
    return [{"role": "system", "content": joined}, *messages[n_system:]]


def _with_id(call: FoundDelta) -> CallDelta:
    return CallDelta(call.index, call.arguments, new_id() if call.name else "", call.name or "")
