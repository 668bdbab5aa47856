"""What an answer took, for people: the `--verbose` of `ingle run` and the `/stats` of a conversation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ingle.cli.console import notes, size

if TYPE_CHECKING:
    from ingle.cli.window import WindowUse
    from ingle.engine.model import Model
    from ingle.engine.token import Stats, Token

__all__ = ["quantile", "report"]


def report(model: Model, stats: Stats, tokens: Sequence[Token], use: WindowUse | None) -> None:
    """Print the numbers on stderr. use: of the model's window, where it has one."""
    console = notes()
    for name, value in [*lines(model, stats, tokens), *([] if use is None else use.lines(stats))]:
        console.print(f"[dim]{name + ':':<15}[/dim] {value}", markup=True)


def lines(model: Model, stats: Stats, tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """(what, value) of everything that is known."""
    found = [("model", f"{model.name}, {model.spec.family}, {model.backend} backend, context {model.context}")]
    computed = stats.prompt_tokens - stats.cached_tokens
    cached = f", {stats.cached_tokens} more from the cache" if stats.cached_tokens else ""
    prefill = f"{computed} tokens{cached}"
    if stats.prefill_tokens_per_s is not None:
        prefill += f" in {stats.prefill_s:.3f} s, {stats.prefill_tokens_per_s:,.1f} tokens/s"
    found.append(("prefill", prefill))
    if stats.ttft_s is not None:
        found.append(("TTFT", f"{stats.ttft_s * 1e3:,.1f} ms"))
    gaps_s = [later.time_s - earlier.time_s for earlier, later in pairwise(tokens)]
    if gaps_s:
        median_ms, p99_ms = quantile(gaps_s, 0.5) * 1e3, quantile(gaps_s, 0.99) * 1e3
        found.append(("ITL", f"median {median_ms:,.2f} ms, p99 {p99_ms:,.2f} ms"))
    decode = f"{stats.n_tokens} tokens"
    if stats.decode_tokens_per_s is not None:
        decode += f", {stats.decode_tokens_per_s:,.1f} tokens/s after the first"
    found.append(("decode", decode))
    if stats.peak_memory_bytes is not None:
        found.append(("peak memory", size(stats.peak_memory_bytes)))
    return found


def quantile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that at least `fraction` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(fraction * len(ordered)) - 1))]
