"""How much memory a model needs, whether it is there, and how much this process has held."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ingle.backends.machine import available_bytes
from ingle.errors import MemoryLimitError
from ingle.models.spec import KVType, Spec

__all__ = ["Need", "check", "mib", "need", "peak_bytes", "resident_bytes"]

MIB = 1 << 20
WINDOW_BYTES = 128 << 20  # with less than this for weights, a model that is too large for memory is not offered to run


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes a model takes: its weights, the KV cache, and the buffers of one call."""

    weights_bytes: int
    cache_bytes: int
    buffers_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.buffers_bytes


def need(
    spec: Spec,
    weights_bytes: int,
    context: int,
    n_slots: int = 1,
    kv_type: KVType = "f16",
    chunk: int = 512,
    logit_rows: int = 1,
    floats: bool = False,
) -> Need:
    """What a model will take at a context. weights_bytes: as the backend holds them. chunk: the most rows of a call;
    logit_rows: of which logits are asked for, which whoever asks may copy. floats: some matrices are of
    floats, for which what they read is rounded less.
    """
    rows = min(chunk, context)
    wide, narrow = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    n_ff = spec.n_ff if spec.experts is None else spec.experts.n_ff
    # Residual, delta, normed; queries and heads; keys and values; gate and up; what experts gather.
    values = 3 * spec.n_embd + 2 * wide + 2 * narrow + 2 * n_ff
    if spec.experts is not None:
        values += 3 * spec.n_embd + spec.experts.n_experts
    # The same for the matrices that read them: in one 16-bit number each, or in three.
    inputs = (3 if floats else 1) * (spec.n_embd + max(wide, n_ff))
    buffers = rows * (4 * values + 2 * inputs) + 8 * logit_rows * spec.n_vocab
    return Need(weights_bytes, spec.kv_bytes_per_token(kv_type) * context * n_slots, buffers)


def check(what: Need, context: int, n_slots: int) -> None:
    """Raise MemoryLimitError when a model will not fit what the system says is free."""
    free = available_bytes()
    if free is None or what.total_bytes <= free:
        return
    remedy = "close other programs, or take a smaller model or one with fewer bits per weight"
    if free > WINDOW_BYTES + what.cache_bytes + what.buffers_bytes:
        limit = (free * 9 // 10 + (resident_bytes() or 0)) // MIB
        remedy = f"with --memory {limit}MiB what does not fit is read from disk as it is needed; or {remedy}"
    if what.weights_bytes + what.buffers_bytes < free:
        fits = (free - what.weights_bytes - what.buffers_bytes) * context * n_slots // what.cache_bytes
        if fits // n_slots > 0:
            remedy = f"ask for a context of {fits // n_slots} or less, or close other programs"
    slots = f" in each of {n_slots} slots" if n_slots > 1 else ""
    raise MemoryLimitError(
        f"The model needs {mib(what.total_bytes)} ({mib(what.weights_bytes)} for the weights, "
        f"{mib(what.cache_bytes)} for the KV cache of {context} positions{slots}) and {mib(free)} are free; {remedy}."
    )


def mib(n_bytes: int) -> str:
    """A size for a message."""
    return f"{n_bytes / MIB:,.1f} MiB"


def resident_bytes() -> int | None:
    """The memory that this process holds now (resident set), or None where the system does not say."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int | None:
    """The most memory this process has held (resident set), or None where the system does not say."""
    # VmHWM and not getrusage: on Linux the latter begins with the peak of the parent process.
    if (peak := _status_bytes("VmHWM")) is not None:
        return peak
    if os.name != "posix":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int | None:
    """A size that Linux tells of this process."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
