"""Phi-1, 1.5 and 2 (GGUF: phi2), and Phi-3, 3.5 and 4 (GGUF: phi3)."""

from __future__ import annotations

from typing import Any

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["PHI2", "PHI3"]

_PHI2_NAMES = {
    "token_embd": "model.embed_tokens",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.dense",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.fc1",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.fc2",
    "output_norm": "model.final_layernorm",
    "output": "lm_head",
}
# q over k over v in one tensor, the gate over up in another: GGUF keeps both as they are.
_PHI3_FUSED = {
    "blk.{i}.attn_qkv": "model.layers.{i}.self_attn.qkv_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.gate_up_proj",
}
_PHI3_SPLIT = ("attn_q", "attn_k", "attn_v", "ffn_gate")
_PHI3_NAMES = {stem: m for stem, m in LLAMA_NAMES.items() if not stem.endswith(_PHI3_SPLIT)} | _PHI3_FUSED


def _phi2_metadata(config: Config) -> dict[str, Any]:
    expect_activation(config, "gelu_new")
    if config.flag("qk_layernorm", default=False):
        raise UnsupportedError("config.json norms queries and keys (qk_layernorm), which no published Phi-2 does.")
    return base_metadata("phi2", config, norm="layer", partial_rotary=0.5)


def _phi2_spec(source: Source, context: int | None) -> Spec:
    return base_spec(source, "phi2", context, norm="layer", activation="gelu_tanh", gated=False, parallel=True)


def _phi3_metadata(config: Config) -> dict[str, Any]:
    expect_activation(config, "silu")
    # Zero is how other tools tell Phi-4, which has no window, from files that do not say.
    return {"phi3.attention.sliding_window": 0} | base_metadata("phi3", config)


def _phi3_spec(source: Source, context: int | None) -> Spec:
    return base_spec(source, "phi3", context)


PHI2 = Family("phi2", ("phi",), _phi2_metadata, _phi2_spec, _PHI2_NAMES, extra=rope_tensors)
PHI3 = Family("phi3", ("phi3",), _phi3_metadata, _phi3_spec, _PHI3_NAMES, extra=rope_tensors)
