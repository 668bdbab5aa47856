"""What the bodies of requests have in common: bounds, fields that are refused or ignored, and how tokens are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "HARMLESS",
    "Body",
    "Count",
    "Flag",
    "Generating",
    "JsonObject",
    "Name",
    "Number",
    "Refusals",
    "Role",
    "Several",
    "StreamOptions",
    "Text",
    "refused",
]

MAX_TEXT = 1 << 22  # characters of one text; what a model can read is less
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=256)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
Flag = Annotated[bool, Field(strict=True)]
JsonObject = dict[str, Any]
Refusals = Mapping[str, tuple[tuple[object, ...], str]]  # fields by name: harmless values, and what to say of others
Several = Annotated[int, Field(strict=True, ge=1, le=16)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


def refused(message: str, param: str = "", code: str = "unsupported_parameter") -> PydanticCustomError:
    """What a validator raises to refuse a field of its object, or the whole of it, in a sentence of its own."""
    message, param = (text.encode("utf-8", "replace").decode() for text in (message, param))  # no halves of surrogates
    return PydanticCustomError("refused", "{message}", {"message": message, "param": param, "code": code})


class Body(BaseModel):
    """An object of a request. A field that is null is as one that is not there.

    Fields it does not know are refused, for an answer that left them out of account would be a wrong one. IGNORED are
    known to change nothing in it. REFUSED: the values that mean as much as nothing, and why others are refused.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    IGNORED: ClassVar[frozenset[str]] = frozenset()
    REFUSED: ClassVar[Refusals] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kept = {}
        names = {field.alias or name for name, field in cls.model_fields.items()}
        for key, item in value.items():
            if key in names:
                if item is not None:
                    kept[key] = item
            elif item is None or key in cls.IGNORED:
                continue
            elif key not in cls.REFUSED:
                name = str(key)[:80]
                raise refused(f"The field {name!r} is not known here; leave it out.", name, "unknown_parameter")
            elif item not in cls.REFUSED[key][0]:
                raise refused(cls.REFUSED[key][1], key)
        return kept


class StreamOptions(Body):
    """How a stream is to be. include_usage: what it took, in a last chunk without choices."""

    IGNORED = frozenset({"include_obfuscation"})
    include_usage: Flag = False


#: Notes of the client's, hints for caches and billing: nothing of it changes what is said.
HARMLESS = frozenset(
    {
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "prediction",
    }
)


class Generating(Body):
    """How an answer is made; what is not given is the model's way: see `ingle run --help`."""

    model: Name | None = None
    stream: Flag = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512, description="Users take turns where many ask at once.")] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2, description="Default 0.8; with tools 0.")] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1, description="Default 0.95.")] | None = None
    top_k: Annotated[Count, Field(description="An extension. 0 = all; default 40.")] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1, description="An extension. Default 0.05.")] | None = None
    repeat_penalty: Annotated[Number, Field(gt=0, le=100, description="An extension. Default 1.")] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[Number, Field(ge=-100, le=100)]],
            Field(max_length=4096),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] = Field([])
