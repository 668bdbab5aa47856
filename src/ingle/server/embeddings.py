"""POST /v1/embeddings: texts as vectors, the mean of the last layer's hidden states."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from numpy.typing import NDArray

from ingle.server.encoding import json_bytes
from ingle.server.errors import RESPONSES, ApiError
from ingle.server.models import served_of
from ingle.server.options import user_of
from ingle.server.schemas_completions import EmbeddingRequest, prompts_of
from ingle.server.served import Served
from ingle.server.stream import until_gone

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/embeddings", response_model=None, responses=RESPONSES, tags=["embeddings"])
async def create_embeddings(body: EmbeddingRequest, http: HttpRequest) -> Response:
    """Turn texts into vectors of length 1, whose products say how alike they are."""
    served = served_of(http, body.model)
    length = served.model.spec.n_embd
    if body.dimensions not in (None, length):
        raise ApiError(
            f"dimensions is {body.dimensions}; this model's vectors have {length}: leave it out.",
            param="dimensions",
            code="unsupported_parameter",
        )
    return await until_gone(http, _embed(served, body, user_of(http, body.user)))


async def _embed(served: Served, body: EmbeddingRequest, user: str) -> Response:
    prompts = await asyncio.to_thread(_prompts, served, body)
    # A future that is cancelled with this coroutine: where the client goes away, it is not computed.
    future: Future[NDArray[np.float32]] = await asyncio.to_thread(served.scheduler.embed, prompts, user=user)
    vectors = await asyncio.wrap_future(future)
    n_tokens = sum(map(len, prompts))
    data = [_entry(index, vector, body.encoding_format) for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return Response(
        json_bytes({"object": "list", "data": data, "model": served.name, "usage": usage}),
        media_type="application/json",
    )


def _prompts(served: Served, body: EmbeddingRequest) -> list[Sequence[int]]:
    """The token ids of each text."""
    encode = served.tokenizer.encode
    return [encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts_of(body.input)]


def _entry(index: int, vector: NDArray[np.float32], encoding: str) -> dict[str, Any]:
    little = vector.astype("<f4")
    shown = base64.b64encode(little.tobytes()).decode() if encoding == "base64" else little.tolist()
    return {"object": "embedding", "index": index, "embedding": shown}
