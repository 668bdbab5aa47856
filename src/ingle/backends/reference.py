"""The definition of right: every verb in plain NumPy, float32, one idea per line, no care for speed.

Other backends are tested against this file, and this file against `transformers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import KVType, Rows, check_rows
from ingle.errors import BackendError, MemoryLimitError
from ingle.models.spec import Activation, NormKind, Rope, Spec
from ingle.models.tensor import Tensor

__all__ = ["ReferenceBackend", "ReferenceCache", "ReferenceState", "rounded"]

Array = NDArray[np.float32]
Weights = dict[str, Array]


class ReferenceCache:
    """keys, values: [P, slots, C, K, D], as the numbers that the codes of q8 and q4 stand for."""

    def __init__(self, spec: Spec, n_slots: int, context: int, kv_type: KVType) -> None:
        shape = (spec.n_passes, n_slots, context, spec.n_kv_heads, spec.head_dim)
        dtype = np.float16 if kv_type == "f16" else np.float32
        self.kv_type = kv_type
        try:
            self.keys = np.zeros(shape, dtype)
            self.values = np.zeros(shape, dtype)
        except MemoryError:
            need = 2 * math.prod(shape) * np.dtype(dtype).itemsize
            raise MemoryLimitError(
                f"The KV cache needs {need / 2**20:.0f} MiB for {n_slots} x {context} positions and the system has no "
                "such room; ask for a smaller context."
            ) from None

    def write(self, pass_index: int, rows: Rows, keys: Array, values: Array) -> None:
        """Keep keys and values [N, K, D] of rows."""
        where = pass_index, rows.slots, rows.positions
        self.keys[where] = rounded(keys, self.kv_type)
        self.values[where] = rounded(values, self.kv_type)

    @property
    def n_slots(self) -> int:
        return self.keys.shape[1]

    @property
    def context(self) -> int:
        return self.keys.shape[2]

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def copy(self, source: int, target: int, n_positions: int) -> None:
        if not (0 <= source < self.n_slots and 0 <= target < self.n_slots and 0 <= n_positions <= self.context):
            raise BackendError(
                f"Cannot copy {n_positions} positions from slot {source} to {target}: the cache has {self.n_slots} "
                f"slots of {self.context} positions."
            )
        self.keys[:, target, :n_positions] = self.keys[:, source, :n_positions]
        self.values[:, target, :n_positions] = self.values[:, source, :n_positions]


@dataclass(eq=False)
class ReferenceState:
    """x, delta: [N, E]. `post` norms delta before it joins x, where the family wants that."""

    rows: Rows
    cache: ReferenceCache
    x: Array
    delta: Array
    post: Callable[[Array], Array] = field(default=lambda delta: delta)

    def absorb(self) -> None:
        """Let the last block's output join the residual."""
        self.x = self.x + self.post(self.delta)
        self.delta = np.zeros_like(self.x)
        self.post = lambda delta: delta


class ReferenceBackend:
    """The four verbs in NumPy."""

    name = "reference"

    def __init__(self, spec: Spec, threads: int | None = None) -> None:
        self.spec = spec

    # Weights: dequantised to float32 when they are loaded.

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> Weights:
        return {role: tensor.float32() for role, tensor in tensors.items()}

    load_attention = load_feed_forward = load_embedding

    def load_output(self, tensors: Mapping[str, Tensor], embedding: Weights) -> Weights:
        shared = {"weight": embedding["weight"]} if self.spec.tied else {}
        return self.load_embedding({role: t for role, t in tensors.items() if role not in shared}) | shared

    def new_cache(self, n_slots: int, context: int, kv_type: KVType = "f16") -> ReferenceCache:
        return ReferenceCache(self.spec, n_slots, context, kv_type)

    # The four verbs.

    def embed(self, embedding: Weights, rows: Rows, cache: ReferenceCache) -> ReferenceState:
        check_rows(rows, self.spec, cache)
        if rows.tokens is None:
            assert rows.hidden is not None
            x = rows.hidden.astype(np.float32)
        else:
            x = embedding["weight"][rows.tokens] * np.float32(self.spec.embed_scale)
            if "norm" in embedding:
                x = self._norm(x, embedding, "norm")
        return ReferenceState(rows, cache, x, np.zeros_like(x))

    def attention(self, block: Weights, state: ReferenceState, pass_index: int) -> None:
        spec = self.spec
        state.absorb()
        x = self._norm(state.x, block, "norm")
        q = linear(x, block, "q").reshape(len(x), spec.n_heads, spec.head_dim)
        k = linear(x, block, "k").reshape(len(x), spec.n_kv_heads, spec.head_dim)
        v = linear(x, block, "v").reshape(len(x), spec.n_kv_heads, spec.head_dim)
        if spec.qk_norm == "head":
            q = normed(q, block["q_norm"], None, spec.norm, spec.norm_eps)
            k = normed(k, block["k_norm"], None, spec.norm, spec.norm_eps)
        rope = spec.rope_of(pass_index)
        if rope is not None:
            q = rotated(q, state.rows.positions, rope)
            k = rotated(k, state.rows.positions, rope)
        state.cache.write(pass_index, state.rows, k, v)
        keys, values = state.cache.keys[pass_index], state.cache.values[pass_index]
        heads = np.stack(
            [
                self._attend(q[i], keys[slot, : position + 1], values[slot, : position + 1], pass_index)
                for i, (slot, position) in enumerate(zip(state.rows.slots, state.rows.positions, strict=True))
            ]
        )
        state.delta = linear(heads.reshape(len(x), -1), block, "o")
        if spec.post_norm:
            state.post = lambda delta: self._norm(delta, block, "post_norm")

    def _attend(self, q: Array, keys: NDArray[np.floating], values: NDArray[np.floating], pass_index: int) -> Array:
        """One row: q [H, D] over keys and values [n, K, D], the last of them its own -> [H, D]."""
        spec = self.spec
        window = spec.window_of(pass_index)
        first = max(0, len(keys) - window) if window else 0
        group = spec.n_heads // spec.n_kv_heads  # consecutive query heads share a key/value head
        k = np.repeat(keys[first:].astype(np.float32), group, axis=1)
        v = np.repeat(values[first:].astype(np.float32), group, axis=1)
        scores = np.einsum("hd,nhd->hn", q, k) * np.float32(spec.score_scale)
        if spec.alibi_slopes:
            distance = np.arange(1 - scores.shape[1], 1, dtype=np.float32)
            scores = scores + np.asarray(spec.alibi_slopes, np.float32)[:, None] * distance
        if spec.attention_softcap:
            cap = np.float32(spec.attention_softcap)
            scores = cap * np.tanh(scores / cap)
        heads: Array = np.einsum("hn,nhd->hd", softmax(scores), v)
        return heads

    def feed_forward(self, block: Weights, state: ReferenceState, pass_index: int) -> None:
        if not self.spec.parallel:
            state.absorb()
        x = self._norm(state.x, block, "norm")
        y = self._mlp(x, block) if self.spec.experts is None else self._mixture(x, block)
        state.delta = state.delta + y
        if self.spec.post_norm:
            state.post = lambda delta: self._norm(delta, block, "post_norm")

    def _mlp(self, x: Array, block: Weights) -> Array:
        """x [N, E] -> [N, E]."""
        hidden = linear(x, block, "up")
        if self.spec.gated:
            hidden = activated(linear(x, block, "gate"), self.spec.activation) * hidden
        else:
            hidden = activated(hidden, self.spec.activation)
        return linear(hidden, block, "down")

    def _mixture(self, x: Array, block: Weights) -> Array:
        """x [N, E] -> [N, E]: for each row the weighted sum of its best experts; ties go to the lower index."""
        experts = self.spec.experts
        assert experts is not None
        scores = linear(x, block, "router")
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, : experts.n_used]
        if experts.normalised:
            weights = softmax(np.take_along_axis(scores, chosen, axis=1))
        else:
            weights = np.take_along_axis(softmax(scores), chosen, axis=1)
        y = np.zeros_like(x)
        for i, row in enumerate(x):
            for expert, weight in zip(chosen[i], weights[i], strict=True):
                mlp = {role: block[f"{role}_experts"][expert] for role in ("gate", "up", "down") if self._has(role)}
                y[i] += weight * self._mlp(row[None], mlp)[0]
        return y

    def _has(self, role: str) -> bool:
        return role != "gate" or self.spec.gated

    def logits(self, output: Weights, state: ReferenceState, wanted: NDArray[np.int32]) -> Array:
        state.absorb()
        x = self._norm(state.x[wanted], output, "norm")
        logits = linear(x, {"output": output["weight"]} | _bias(output), "output") * np.float32(self.spec.logit_scale)
        if self.spec.logit_softcap:
            cap = np.float32(self.spec.logit_softcap)
            logits = cap * np.tanh(logits / cap)
        return logits

    def _norm(self, x: Array, block: Weights, role: str) -> Array:
        return normed(x, block[role], block.get(f"{role}.bias"), self.spec.norm, self.spec.norm_eps)


def _bias(output: Weights) -> Weights:
    return {"output.bias": output["bias"]} if "bias" in output else {}


def linear(x: Array, block: Weights, role: str) -> Array:
    """x [N, in] @ weight [out, in].T + bias? -> [N, out]."""
    y: Array = x @ block[role].T
    return y + block[f"{role}.bias"] if f"{role}.bias" in block else y


def normed(x: Array, weight: Array, bias: Array | None, kind: NormKind, eps: float) -> Array:
    """RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450) over the last axis."""
    if kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    y: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight
    return y if bias is None else y + bias


def rotated(x: Array, positions: NDArray[np.int32], rope: Rope) -> Array:
    """x [N, heads, D]: pairs of dimensions turned by position * frequency."""
    n = len(rope.frequencies)
    angle = positions[:, None].astype(np.float64) * np.asarray(rope.frequencies)
    cos = (np.cos(angle) * rope.magnitude).astype(np.float32)[:, None, :]
    sin = (np.sin(angle) * rope.magnitude).astype(np.float32)[:, None, :]
    first = slice(0, 2 * n, 2) if rope.style == "interleaved" else slice(0, n)
    second = slice(1, 2 * n, 2) if rope.style == "interleaved" else slice(n, 2 * n)
    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., second] * cos + x[..., first] * sin
    return y


def rounded(x: Array, kv_type: KVType) -> Array:
    """What a cache of a type gives back for x [..., D], but for the rounding to float16 that its array does.

    q8, q4: groups of 32 along the last axis, the last one maybe smaller, as codes with a float16 scale. q8 is GGML's
    Q8_0: scale = max|x| / 127, codes to the nearest, halves away from zero. q4 is its Q4_0: scale = m / -8 where m is
    the number of the largest magnitude (of two that differ in sign, the positive), codes -8 .. 7, halves upwards.
    A group below 1e-30 is zero; in one with a NaN or an infinity all are NaN.
    """
    if kv_type in ("f32", "f16"):
        return x
    dim = x.shape[-1]
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -dim % 32)]
    groups = np.pad(x, padding).reshape(*x.shape[:-1], -1, 32)
    finite = np.isfinite(groups).all(axis=-1, keepdims=True)
    groups = np.where(finite, groups, np.float32(0))
    high, low = groups.max(axis=-1, keepdims=True), groups.min(axis=-1, keepdims=True)
    largest = np.where(high >= -low, high, low)
    scale = np.abs(largest) / np.float32(127) if kv_type == "q8" else largest / np.float32(-8)
    with np.errstate(divide="ignore", over="ignore"):
        factor = np.where(np.abs(largest) > 1e-30, 1 / scale, np.float32(0))
    if kv_type == "q8":
        codes = np.trunc(groups * factor + np.copysign(np.float32(0.5), groups))
    else:
        codes = np.minimum(np.trunc(groups * factor + np.float32(8.5)), np.float32(15)) - np.float32(8)
    stored = np.clip(scale, -65504, 65504).astype(np.float16).astype(np.float32)
    y: Array = np.where(finite, codes * stored, np.float32(np.nan)).astype(np.float32)
    return y.reshape(*x.shape[:-1], -1)[..., :dim]


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y: Array = e / e.sum(axis=-1, keepdims=True)
    return y


def activated(x: Array, kind: Activation) -> Array:
    """The activation function, by its name in `Spec`."""
    y: Array
    if kind == "silu":
        with np.errstate(over="ignore"):  # exp(-x) = inf is right: the quotient is then 0
            y = x / (1 + np.exp(-x))
    elif kind == "gelu":
        erf = np.frompyfunc(math.erf, 1, 1)
        y = np.float32(0.5) * x * (1 + erf(x / np.float32(math.sqrt(2))).astype(np.float32))
    elif kind == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
        y = np.float32(0.5) * x * (1 + np.tanh(inner))
    elif kind == "relu":
        y = np.maximum(x, 0)
    elif kind == "relu2":
        y = np.maximum(x, 0) ** 2
    else:
        assert_never(kind)
    return y
