"""The body of POST /v1/responses, of which a part is supported: text, instructions, functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ingle.server.schemas import (
    HARMLESS,
    Body,
    Count,
    Flag,
    Generating,
    JsonObject,
    Name,
    Refusals,
    Role,
    Text,
    refused,
)
from ingle.server.schemas_chat import MAX_MESSAGES, Part, Word

__all__ = ["ResponseRequest"]

STATELESS = "this server keeps no conversations: send all of it as input."


class Item(Body):
    """A message, a call that the model made, or what came of one."""

    IGNORED = frozenset({"id", "status", "phase"})
    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Role | None = None
    content: Text | Annotated[list[Part], Field(max_length=4096)] | None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: Text | None = None
    output: Text | Annotated[list[Part], Field(max_length=4096)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in ("message", "function_call", "function_call_output"):
            raise refused(f"An item of the type {kind[:64]!r} is not supported; send messages and function calls.")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Item:
        needed = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "function_call_output": ("call_id", "output"),
        }[self.type]
        for name in needed:
            if getattr(self, name) is None:
                raise refused(f"An item of the type {self.type} has no {name}; give it.", name, "missing")
        return self

    @property
    def call(self) -> JsonObject:
        """A function_call, as chat messages have it."""
        return {
            "id": self.call_id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments or "{}"},
        }


class Function(Body):
    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: Flag | None = Field(None, description="Calls are always held to the schema.")

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else "function"
        if isinstance(kind, str) and kind != "function":
            raise refused(f"A tool of the type {kind[:64]!r} is not supported; send functions.", "type")
        return value

    def as_chat(self) -> JsonObject:
        """The function as chat completions have it."""
        return {"type": "function", "function": self.model_dump(include={"name", "description", "parameters"})}


class NamedFunction(Body):
    type: Literal["function"]
    name: Name


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: Text | None = None
    strict: Flag | None = Field(None, description="Refuse what of the schema cannot be enforced.")
    schema_: JsonObject = Field(default={}, alias="schema")


class TextOptions(Body):
    REFUSED: ClassVar[Refusals] = {
        "verbosity": (("medium",), "verbosity is not supported; say in the input how long it should be.")
    }
    format: TextFormat | None = None

    @property
    def as_format(self) -> JsonObject | None:
        """The format as grammars take it; None = any text."""
        if self.format is None or self.format.type == "text":
            return None
        return self.format.model_dump(by_alias=True, exclude_none=True)


class Reasoning(Body):
    IGNORED = frozenset({"summary", "generate_summary"})
    effort: Word | None = None


class ResponseRequest(Generating):
    """Input to be answered."""

    IGNORED = HARMLESS | {"max_tool_calls", "background_options"}
    REFUSED: ClassVar[Refusals] = {
        "previous_response_id": ((), f"previous_response_id is not supported, for {STATELESS}"),
        "conversation": ((), f"conversation is not supported, for {STATELESS}"),
        "prompt": ((), "prompt names a stored template, and this server has none; send the input itself."),
        "background": ((False,), "background is not supported; wait for the answer, or stream it."),
        "truncation": (("disabled",), "truncation is not supported; send less, or leave it out."),
        "context_management": (([],), "context_management is not supported; send less, or leave it out."),
        "moderation": ((), "This server does not moderate; leave moderation out."),
    }
    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    max_output_tokens: Annotated[Count, Field(ge=1, description="As max_tokens.")] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] = Field({})
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] = Field([], max_length=16)
    parallel_tool_calls: Flag = True
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Annotated[list[Function], Field(max_length=1024)] = Field([])
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None

    def messages(self) -> list[JsonObject]:
        """The input as messages of a chat; calls that follow each other are one message."""
        messages: list[JsonObject] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            last = messages[-1] if messages else {}
            if item.type == "function_call" and last.get("role") == "assistant":
                last.setdefault("tool_calls", []).append(item.call)
            elif item.type == "function_call":
                messages.append({"role": "assistant", "content": "", "tool_calls": [item.call]})
            elif item.type == "function_call_output":
                said = {"role": "tool", "tool_call_id": item.call_id or "", "content": _text(item.output)}
                messages.append(said)
            else:
                messages.append({"role": item.role, "content": _text(item.content)})
        return messages


def _text(content: str | Sequence[Part] | None) -> str:
    return content if isinstance(content, str) else "".join(part.as_text() for part in content or ())
