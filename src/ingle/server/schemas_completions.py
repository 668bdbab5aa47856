"""The bodies of POST /v1/completions and /v1/embeddings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ingle.server.schemas import HARMLESS, Body, Count, Flag, Generating, Name, Refusals, Several, Text

__all__ = ["CompletionRequest", "EmbeddingRequest", "Prompts", "prompts_of"]

TokenId = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
Prompts = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    | Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
    | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=2048)]
)


class CompletionRequest(Generating):
    """A text, or several, to be continued as they are."""

    IGNORED = HARMLESS
    REFUSED: ClassVar[Refusals] = {
        "suffix": (("",), "suffix asks for a text to fit in between, which this server cannot make; leave it out."),
        "best_of": ((1,), "best_of is not supported; ask for n answers and choose among them."),
    }
    prompt: Prompts
    n: Several = 1
    max_tokens: Annotated[Count, Field(ge=1)] = 16
    echo: Flag = False
    logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None


class EmbeddingRequest(Body):
    """Texts, each to become a vector."""

    IGNORED = HARMLESS
    model: Name | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Count, Field(ge=1)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


def prompts_of(prompts: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """One prompt after the other, each a text or token ids."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts[0], int):
        return [prompts]
    return list(prompts)
