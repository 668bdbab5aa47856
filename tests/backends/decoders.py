"""Small decoders with random weights, for every option that a `Spec` has, and the loop that computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.backends.base import Backend, Cache, KVType, Rows
from ingle.gguf import TensorType, quantize
from ingle.models.spec import Experts, Rope, Spec
from ingle.models.tensor import Tensor

Array = NDArray[np.float32]
Tensors = dict[str, Tensor]

HALF = Rope("half", (1.0, 0.3, 0.05))
INTERLEAVED = Rope("interleaved", (1.0, 0.2, 0.01, 0.002), magnitude=1.3)


def spec_of(**options: Any) -> Spec:
    """A spec of two layers with grouped heads, whose head size is not width / heads."""
    plain: dict[str, Any] = {
        "family": "random",
        "n_vocab": 37,
        "n_embd": 32,
        "n_ff": 48,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 10,
        "n_context": 64,
        "schedule": (0, 1),
        "rope": HALF,
    }
    return Spec(**plain | options)


#: Each option by itself, and the mixtures that families really use.
SPECS: dict[str, Spec] = {
    "plain": spec_of(),
    "layer norm": spec_of(norm="layer", norm_eps=1e-3),
    "gelu": spec_of(activation="gelu"),
    "gelu_tanh": spec_of(activation="gelu_tanh"),
    "relu": spec_of(activation="relu"),
    "relu2": spec_of(activation="relu2"),
    "not gated": spec_of(gated=False, activation="gelu"),
    "relu not gated": spec_of(gated=False, activation="relu", tied=True),
    "relu2 not gated": spec_of(gated=False, activation="relu2", rope=INTERLEAVED),
    "relu2 not gated, qk norm": spec_of(gated=False, activation="relu2", qk_norm="head", schedule=(0, 1, 1, 0)),
    "parallel": spec_of(parallel=True),
    "parallel experts": spec_of(parallel=True, experts=Experts(4, 2, 24)),
    "post norm": spec_of(post_norm=True),
    "qk norm": spec_of(qk_norm="head"),
    "qk layer norm": spec_of(qk_norm="head", norm="layer"),
    "attention scale": spec_of(attention_scale=0.7),
    "attention soft cap": spec_of(attention_softcap=1.5),
    "interleaved": spec_of(rope=INTERLEAVED),
    "whole rotation": spec_of(rope=Rope("half", (1.0, 0.5, 0.2, 0.1, 0.02))),
    "no rotation": spec_of(rope=None),
    "local rotation": spec_of(rope_local=INTERLEAVED, window=3, local=(True, False)),
    "alibi": spec_of(rope=None, alibi_slopes=(0.5, 0.3, 0.2, 0.1, 0.05, 0.01)),
    "alibi and cap": spec_of(alibi_slopes=(0.5, 0.3, 0.2, 0.1, 0.05, 0.01), attention_softcap=2.0),
    "window": spec_of(window=4),
    "local pattern": spec_of(window=3, local=(False, True)),
    "embed scale": spec_of(embed_scale=5.5),
    "logit scale": spec_of(logit_scale=0.3),
    "logit soft cap": spec_of(logit_softcap=1.5, logit_scale=2.0),
    "tied": spec_of(tied=True),
    "shared layers": spec_of(schedule=(0, 0, 1, 1, 0)),
    "experts": spec_of(experts=Experts(5, 2, 24)),
    "experts not normalised": spec_of(experts=Experts(5, 3, 24, normalised=False), gated=False),
    "heads alone": spec_of(n_kv_heads=6),
    "one key head": spec_of(n_kv_heads=1),
    "many heads for one": spec_of(n_heads=40, n_kv_heads=1, head_dim=8),
    "head of 1": spec_of(head_dim=1, rope=None),
    "head of 64": spec_of(head_dim=64, n_heads=2, n_kv_heads=1),
    "head of 80": spec_of(head_dim=80, n_heads=2, n_kv_heads=2),
    "head of 96": spec_of(head_dim=96, n_heads=2, n_kv_heads=2),
    "head of 128": spec_of(head_dim=128, n_heads=2, n_kv_heads=1),
    "head of 256": spec_of(head_dim=256, n_heads=1, n_kv_heads=1),
    "gemma 2": spec_of(
        post_norm=True,
        attention_softcap=5.0,
        logit_softcap=3.0,
        window=4,
        local=(True, False),
        embed_scale=5.7,
        tied=True,
    ),
    "falcon": spec_of(parallel=True, norm="layer", gated=False, activation="gelu", n_kv_heads=1),
}


@dataclass
class Decoder:
    """Random tensors for a spec."""

    spec: Spec
    embedding: Tensors
    attention: list[Tensors]
    feed_forward: list[Tensors]
    output: Tensors


def random_decoder(
    spec: Spec, seed: int = 0, *, biases: bool = False, type: TensorType = TensorType.F32, wide_qk_norm: bool = False
) -> Decoder:
    """Matrices are scaled so that values stay of the order of one; `type` is that of all matrices but the router."""
    rng = np.random.default_rng(seed)
    e, d, h, k = spec.n_embd, spec.head_dim, spec.n_heads, spec.n_kv_heads

    def matrix(role: str, *shape: int, as_type: TensorType = type) -> tuple[str, Tensor]:
        values = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))
        if as_type is TensorType.F32:
            return role, Tensor.from_float32(role, values)
        data = quantize(values.reshape(-1, shape[-1]), as_type).reshape(-1)
        return role, Tensor(role, shape, as_type, data)

    def vector(role: str, *shape: int, near: float = 0.0) -> tuple[str, Tensor]:
        return role, Tensor.from_float32(role, np.float32(near) + rng.standard_normal(shape, dtype=np.float32) / 5)

    def norm(role: str) -> list[tuple[str, Tensor]]:
        return [vector(role, e, near=1), *([vector(f"{role}.bias", e)] if biases or spec.norm == "layer" else [])]

    def linear(role: str, n: int, width: int) -> list[tuple[str, Tensor]]:
        return [matrix(role, n, width), *([vector(f"{role}.bias", n)] if biases else [])]

    def attention() -> Tensors:
        block = [*norm("norm"), *linear("q", h * d, e), *linear("k", k * d, e), *linear("v", k * d, e)]
        block += linear("o", e, h * d)
        if spec.qk_norm == "head":
            block += [vector("q_norm", *((h, d) if wide_qk_norm else (d,)), near=1)]
            block += [vector("k_norm", *((k, d) if wide_qk_norm else (d,)), near=1)]
        return dict(block + (norm("post_norm") if spec.post_norm else []))

    def feed_forward() -> Tensors:
        block = norm("norm") + (norm("post_norm") if spec.post_norm else [])
        if spec.experts is None:
            roles = ("gate", "up") if spec.gated else ("up",)
            return dict(
                block + [t for role in roles for t in linear(role, spec.n_ff, e)] + linear("down", e, spec.n_ff)
            )
        x, f = spec.experts.n_experts, spec.experts.n_ff
        block += [matrix("router", x, e, as_type=TensorType.F32)]
        block += [matrix("gate_experts", x, f, e)] if spec.gated else []
        return dict([*block, matrix("up_experts", x, f, e), matrix("down_experts", x, e, f)])

    embedding = dict([matrix("weight", spec.n_vocab, e), *(norm("norm") if biases else [])])
    output = dict(norm("norm") + ([vector("bias", spec.n_vocab)] if biases else []))
    output["weight"] = embedding["weight"] if spec.tied else matrix("weight", spec.n_vocab, e)[1]
    n = spec.n_layers
    return Decoder(spec, embedding, [attention() for _ in range(n)], [feed_forward() for _ in range(n)], output)


def _nothing(delta: Array) -> None: ...


@dataclass
class Loaded:
    """A decoder's weights in a backend."""

    backend: Backend
    decoder: Decoder
    comm: Callable[[Array], None] = _nothing
    deltas: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        b = self.backend
        self.embedding = b.load_embedding(self.decoder.embedding)
        self.attention = [b.load_attention(block) for block in self.decoder.attention]
        self.feed_forward = [b.load_feed_forward(block) for block in self.decoder.feed_forward]
        self.output = b.load_output(self.decoder.output, self.embedding)

    def cache(self, n_slots: int = 1, context: int = 64, kv_type: KVType = "f32") -> Cache:
        return self.backend.new_cache(n_slots, context, kv_type)

    def forward(self, rows: Rows, cache: Cache) -> Array:
        """Logits of all rows; every block's delta is kept in `deltas`."""
        spec = self.decoder.spec
        self.deltas = []
        state = self.backend.embed(self.embedding, rows, cache)
        for p, layer in enumerate(spec.schedule):
            self.backend.attention(self.attention[layer], state, p)
            if not spec.parallel:
                self.comm(state.delta)
            self.deltas.append(state.delta.copy())
            self.backend.feed_forward(self.feed_forward[layer], state, p)
            self.comm(state.delta)
            self.deltas.append(state.delta.copy())
        return self.backend.logits(self.output, state, np.arange(len(rows), dtype=np.int32))


def random_tokens(spec: Spec, n: int, seed: int = 1) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, spec.n_vocab, n, dtype=np.int32)


def error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference relative to the largest value expected (or to 0.1, where ordinary values are near one)."""
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    return float(np.abs(got - expected).max() / max(0.1, np.abs(expected).max()))


def rms_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """The root of the mean squared difference relative to that of the values expected."""
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    return float(np.sqrt(np.square(got - expected).mean() / np.square(expected).mean()))


def changed(tensors: Mapping[str, Tensor], role: str, factor: float) -> Tensors:
    """The same block with one tensor multiplied."""
    scaled = Tensor.from_float32(role, tensors[role].float32() * np.float32(factor))
    return dict(tensors) | {role: scaled}
