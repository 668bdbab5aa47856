"""Gemma 1, 2 and 3 (text): scaled embeddings, norm weights stored as a difference to one, GELU gates.

Gemma 2 (arXiv 2408.00118) norms the blocks' outputs too, caps scores and logits softly, and lets every other layer see
a window only. Gemma 3 (arXiv 2503.19786) norms q and k instead of capping, and has five local layers to a global one,
with a rotation of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Transform, plus_one
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["GEMMA", "GEMMA2", "GEMMA3"]

_POST_NORM_NAMES = LLAMA_NAMES | {
    "blk.{i}.post_attention_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_norm": "model.layers.{i}.pre_feedforward_layernorm",
    "blk.{i}.post_ffw_norm": "model.layers.{i}.post_feedforward_layernorm",
}
_QK_NORM_NAMES = {
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
}
_NORMS = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm", "output_norm")


@dataclass(frozen=True, slots=True)
class _Generation:
    """What sets a generation apart.

    defaults: what its published configurations leave out. local_every: the layers' pattern. n_layers_27b: the size
    whose scores are scaled by the width over the heads rather than by the head (GGUF files do not say).
    """

    arch: str
    defaults: Mapping[str, Any]
    local_every: int = 0
    n_layers_27b: int = 0

    def metadata(self, config: Config) -> dict[str, Any]:
        config = config.over(Config(self.defaults, "the defaults of the family"))
        expect_activation(config, "gelu_pytorch_tanh", "gelu")  # Gemma 1 said "gelu" and meant the approximation
        if config.flag("use_bidirectional_attention", default=False):
            raise UnsupportedError("config.json asks for attention in both directions; Ingle runs decoders only.")
        keys = base_metadata(self.arch, config, local_every=self.local_every)
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if name in config:
                keys[f"{self.arch}.{name}"] = config.number(name)
        head_dim = config.count("head_dim")
        scalar = config.positive("query_pre_attn_scalar", default=float(head_dim))
        if scalar != head_dim:
            keys[f"{self.arch}.attention.scale"] = scalar**-0.5
        if self.arch == "gemma3":
            local = config.part("rope_parameters").part("sliding_attention")
            base = local.positive("rope_theta", default=config.positive("rope_local_base_freq", default=10000.0))
            keys["gemma3.rope.freq_base_swa"] = base
        return keys

    def spec(self, source: Source, context: int | None) -> Spec:
        meta, arch = source.metadata, self.arch
        width, heads = meta.get_int(f"{arch}.embedding_length"), meta.get_int(f"{arch}.attention.head_count")
        changes: dict[str, Any] = {"embed_scale": float(np.float32(math.sqrt(max(width, 0))))}  # base_spec checks width
        if meta.get_int(f"{arch}.block_count") == self.n_layers_27b and f"{arch}.attention.scale" not in meta:
            changes["attention_scale"] = (width // heads) ** -0.5 if 0 < heads <= width else 0.0
        if arch != "gemma":
            caps = (50.0, 30.0) if arch == "gemma2" else (0.0, 0.0)
            changes["attention_softcap"] = meta.get_float(f"{arch}.attn_logit_softcapping", caps[0])
            changes["logit_softcap"] = meta.get_float(f"{arch}.final_logit_softcapping", caps[1])
            changes["post_norm"] = True
        if arch == "gemma3":
            changes["qk_norm"] = "head"
            changes["local_rope_base"] = meta.get_float("gemma3.rope.freq_base_swa", 10000.0)
        default_window = 4096 if arch == "gemma2" else 0
        return base_spec(
            source,
            arch,
            context,
            activation="gelu_tanh",
            default_window=default_window,
            local_every=self.local_every,
            **changes,
        )


def _transforms(config: Config) -> Mapping[str, Transform]:
    return dict.fromkeys(_NORMS, plus_one)


def _family(generation: _Generation, model_types: tuple[str, ...], names: Mapping[str, str]) -> Family:
    return Family(
        arch=generation.arch,
        model_types=model_types,
        metadata=generation.metadata,
        spec=generation.spec,
        names=names,
        transforms=_transforms,
        extra=rope_tensors,
        tied_by_default=True,
    )


_DEFAULTS: dict[str, Any] = {"head_dim": 256, "rms_norm_eps": 1e-6}
_GEMMA2_DEFAULTS = _DEFAULTS | {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA3_DEFAULTS = _DEFAULTS | {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rope_theta": 1_000_000.0,
}

GEMMA = _family(_Generation("gemma", _DEFAULTS), ("gemma",), LLAMA_NAMES)
GEMMA2 = _family(_Generation("gemma2", _GEMMA2_DEFAULTS, 2, 46), ("gemma2",), _POST_NORM_NAMES)
GEMMA3 = _family(
    _Generation("gemma3", _GEMMA3_DEFAULTS, 6, 62), ("gemma3_text", "gemma3"), _POST_NORM_NAMES | _QK_NORM_NAMES
)
