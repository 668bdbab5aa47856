"""The body of POST /v1/chat/completions."""

from __future__ import annotations

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
    Several,
    Text,
    refused,
)

__all__ = ["ChatRequest", "Message", "NamedTool", "Part", "ResponseFormat", "ToolDefinition"]

MAX_MESSAGES = 4096
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,64}$")]  # no control token is one


class Part(Body):
    """A part of a message."""

    type: Annotated[str, Field(max_length=64)]
    text: Text | None = None
    refusal: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else "text"
        if isinstance(kind, str) and kind not in ("text", "input_text", "output_text", "refusal"):
            what = repr(kind[:64])
            raise refused(f"A part of a message is {what}; this model reads text only: send text.", code="not_text")
        if isinstance(value, dict):  # what the API adds to its own answers
            value = {key: item for key, item in value.items() if key not in ("annotations", "logprobs")}
        return value

    def as_text(self) -> str:
        return (self.refusal if self.type == "refusal" else self.text) or ""


class CalledFunction(Body):
    name: Name
    arguments: Text = "{}"


class Call(Body):
    """A call that the model made in an earlier answer."""

    id: Name = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    IGNORED = frozenset({"audio", "annotations", "reasoning", "reasoning_content"})
    REFUSED: ClassVar[Refusals] = {"function_call": ((), "function_call is out of date; send tool_calls.")}
    role: Role
    content: Text | Annotated[list[Part], Field(max_length=4096)] | None = None
    name: Name | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[Call], Field(max_length=1024)] | None = None
    tool_call_id: Name | None = None

    def as_template(self) -> JsonObject:
        """The message as chat templates read it."""
        content = self.content if self.content is not None else self.refusal or ""
        text = content if isinstance(content, str) else "".join(part.as_text() for part in content)
        rest = self.model_dump(include={"name", "tool_calls", "tool_call_id"}, exclude_none=True)
        return {"role": self.role, "content": text, **rest}


class FunctionDefinition(Body):
    name: Name
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: Flag | None = Field(None, description="Calls are always held to the schema.")


class ToolDefinition(Body):
    type: Literal["function"] = "function"
    function: FunctionDefinition


class NamedFunction(Body):
    name: Name


class NamedTool(Body):
    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(Body):
    name: Name | None = None
    description: Text | None = None
    schema_: JsonObject = Field(default={}, alias="schema")
    strict: Flag | None = Field(None, description="Refuse what of the schema cannot be enforced.")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def as_format(self) -> JsonObject | None:
        """The format as grammars take it; None = any text."""
        return None if self.type == "text" else self.model_dump(by_alias=True, exclude_none=True)

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise refused(
                "response_format of the type json_schema has no schema; give json_schema.schema.",
                "json_schema",
                "missing_required_parameter",
            )
        return self


class ChatRequest(Generating):
    """A conversation, to be answered."""

    IGNORED = HARMLESS
    REFUSED: ClassVar[Refusals] = {
        "functions": (([],), "functions is out of date; send tools."),
        "function_call": (("none", "auto"), "function_call is out of date; send tool_choice."),
        "modalities": ((["text"],), "This model answers with text only; leave modalities out."),
        "audio": ((), "This model answers with text only; leave audio out."),
        "web_search_options": ((), "This server does not search the web; leave web_search_options out."),
        "verbosity": (("medium",), "verbosity is not supported; say in a message how long the answer should be."),
        "moderation": ((), "This server does not moderate; leave moderation out."),
    }
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    n: Several = 1
    max_tokens: Annotated[Count, Field(ge=1, description="Default: what the context has room for.")] | None = None
    max_completion_tokens: Annotated[Count, Field(ge=1, description="As max_tokens.")] | None = None
    logprobs: Flag = False
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=1024)] = Field([])
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Flag = True
    reasoning_effort: Word | None = None
    chat_template_kwargs: Annotated[dict[Name, Flag | Count | Word], Field(max_length=64)] = Field(
        default={}, description="An extension. Further names for the model's chat template."
    )

    @model_validator(mode="after")
    def _logprobs_together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs needs logprobs to be true; give both.", "top_logprobs", "invalid_value")
        return self
