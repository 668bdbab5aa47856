"""What a server serves: a model, the scheduler that answers with it, and the name that clients ask for it by."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ingle.engine.model import Model
from ingle.engine.scheduler import Scheduler
from ingle.server.errors import ApiError
from ingle.text.calls import Family, family_of
from ingle.text.tokenizer import Tokenizer

__all__ = ["Served"]


@dataclass(frozen=True)
class Served:
    """A model in service. created: when, in seconds since 1970."""

    model: Model
    scheduler: Scheduler
    name: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @cached_property
    def family(self) -> Family:
        """How the model writes calls."""
        return family_of(self.model.template)

    def check_name(self, asked: str | None) -> None:
        """Raise ApiError where another model was asked for."""
        if asked is not None and asked != self.name:
            raise ApiError(
                f"The model {asked[:80]!r} is not served here; ask for {self.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def describe(self) -> dict[str, Any]:
        """The model as GET /v1/models lists it."""
        model = self.model
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "ingle",
            "context_length": model.context,
            "n_vocab": model.tokenizer.n_vocab,
            "embedding_length": model.spec.n_embd,
            "has_chat_template": model.has_template,
        }
