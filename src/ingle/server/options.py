"""From the fields of a request's body to what the engine takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import Request as HttpRequest

from ingle.engine.generate import Request
from ingle.engine.sampling import SamplingParams
from ingle.engine.token import Stats
from ingle.server.errors import ApiError
from ingle.server.schemas import Generating

__all__ = ["params_of", "repeated", "stops_of", "usage_of", "user_of"]

SEEDS = 1 << 64


def params_of(body: Generating, n_vocab: int, *, calls: bool = False) -> SamplingParams:
    """How tokens are drawn. calls: the answer may have calls; then the likeliest tokens unless told otherwise."""
    given: dict[str, Any] = body.model_dump(
        include={"temperature", "top_p", "top_k", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty"},
        exclude_unset=True,
        exclude_none=True,
    )
    if calls:
        given.setdefault("temperature", 0.0)
    if "top_p" in given:
        given["top_p"] = max(given["top_p"], 1e-9)  # 0 is meant as the likeliest token alone
    if body.logit_bias:
        bias = {int(token_id): value for token_id, value in body.logit_bias.items()}
        if max(bias) >= n_vocab:
            raise ApiError(
                f"logit_bias has the token {max(bias)}; this model's are 0 to {n_vocab - 1}.",
                param="logit_bias",
                code="invalid_value",
            )
        given["logit_bias"] = bias
    return SamplingParams(**given, seed=None if body.seed is None else body.seed % SEEDS)


def stops_of(body: Generating) -> tuple[str, ...]:
    """The strings that the answer ends before."""
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def repeated(request: Request, n: int) -> list[Request]:
    """n requests that differ in their seed: with a seed given, the same n answers every time."""
    seed = request.params.seed
    if seed is None:
        return [request] * n
    return [replace(request, params=replace(request.params, seed=(seed + index) % SEEDS)) for index in range(n)]


def usage_of(stats: list[Stats], n: int = 1) -> dict[str, Any]:
    """Tokens of some answers, of which every n have one prompt, as the API counts them."""
    prompt = sum(one.prompt_tokens for one in stats[::n])
    cached = sum(one.cached_tokens for one in stats[::n])
    said = sum(one.n_tokens for one in stats)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def user_of(http: HttpRequest, named: str | None) -> str:
    """Whose turn it is: the holder of a key; where nobody needs one, the address, and whom the request names there."""
    address = http.client.host if http.client else ""
    holder = str(http.scope.get("state", {}).get("user") or address)
    return holder if named is None or holder.startswith("key-") else f"{holder}/{named}"
