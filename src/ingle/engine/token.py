"""The one record of truth: what a model said, when, and what it took. Everything people see is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Answer", "FinishReason", "Stats", "Token"]

FinishReason = Literal["stop", "length", "eos"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What an answer took so far. Times are seconds of a monotonic clock.

    prompt_tokens: tokens of the prompt; cached_tokens of them were in the KV cache and were not computed again.
    n_tokens: tokens sampled so far.
    prefill_s: time to compute the prompt. ttft_s: from the call to the first token (None before it).
    decode_s: time spent on the tokens after the first, without the time that whoever reads them spent in between.
    peak_memory_bytes: the most memory the process has held, read at the first and the last token; None if unknown.
    """

    prompt_tokens: int
    cached_tokens: int
    n_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float | None = None
    decode_s: float = 0.0
    peak_memory_bytes: int | None = None

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Computed prompt tokens per second; None before they are computed."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s > 0 else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens after the first per second; None before there is one."""
        return (self.n_tokens - 1) / self.decode_s if self.decode_s > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """All numbers by their names, for JSON."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "n_tokens": self.n_tokens,
            "prefill_s": self.prefill_s,
            "ttft_s": self.ttft_s,
            "decode_s": self.decode_s,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said. token_ids: as sampled, without the one that ended the answer. finish_reason: None = cut short.

    problem: why its grammar cut it short, as a sentence; "" where none did.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token.

    text: what it adds to the answer. Never half a character: text that waits for its other half, or that may turn out
        to be the beginning of a stop string, comes with a later token; the last token brings all that is left.
    logprob: natural logarithm of the probability the model itself gave it, whatever the sampling did.
    index: 0 for the answer's first token. time_s: seconds from the call to this token, on a monotonic clock.
    finish_reason: None until the last token, then "eos" (the model ended), "stop" (a stop string) or "length".
    top: the likeliest tokens in its place, falling, with their logprobs; as many as `Request.n_top` asked for.
    """

    text: str
    token_id: int
    logprob: float
    index: int
    time_s: float
    stats: Stats
    finish_reason: FinishReason | None = None
    top: tuple[tuple[int, float], ...] = ()
