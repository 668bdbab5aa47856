"""Log-probabilities of tokens, in the two forms that the API has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingle.engine.token import Token
from ingle.text.tokenizer import Tokenizer

__all__ = ["chat_logprobs", "completion_logprobs"]

LEAST = -9999.0  # stands for what has no probability at all: JSON has no infinity


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """As chat completions and responses have them: each token with its bytes, and the likeliest in its place."""
    return [
        {
            **_entry(token.token_id, token.logprob, tokenizer),
            "top_logprobs": [_entry(token_id, logprob, tokenizer) for token_id, logprob in token.top],
        }
        for token in tokens
    ]


def completion_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """As legacy completions have them: a list for each property. offset: characters before the first token."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [_text(token.token_id, tokenizer) for token in tokens],
        "token_logprobs": [max(token.logprob, LEAST) for token in tokens],
        "top_logprobs": [
            {_text(token_id, tokenizer): max(logprob, LEAST) for token_id, logprob in token.top} for token in tokens
        ],
        "text_offset": offsets,
    }


def _entry(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": _text(token_id, tokenizer), "logprob": max(logprob, LEAST), "bytes": list(data)}


def _text(token_id: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")
