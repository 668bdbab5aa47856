"""Llama 1 to 3, Mistral, Mixtral, and everything that copied their shape (TinyLlama, SmolLM, Yi, ...)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family, fused_experts
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Recipe, Transform, copy, interleaved, stacked
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["LLAMA", "llama_metadata", "rotary_rows"]


def llama_metadata(config: Config) -> dict[str, Any]:
    """The GGUF keys of a configuration in Llama's layout."""
    expect_activation(config, "silu")
    return base_metadata("llama", config) | _expert_keys(config)


def _expert_keys(config: Config) -> dict[str, Any]:
    if "num_local_experts" not in config:
        return {}
    return {
        "llama.expert_count": config.integer("num_local_experts"),
        "llama.expert_used_count": config.count("num_experts_per_tok", default=2),
    }


def rotary_rows(config: Config) -> Mapping[str, Transform]:
    """The order of q's and k's rows that the interleaved rotation needs."""
    heads = config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", default=heads)
    return {"attn_q": interleaved(heads), "attn_k": interleaved(kv_heads)}


def _extra(config: Config, names: Collection[str]) -> dict[str, Recipe]:
    """Mixtral's experts (w1 is the gate, w2 leads down, w3 is up), alone or already fused, and the rope factors."""
    recipes = rope_tensors(config)
    n_experts = config.integer("num_local_experts", default=0)
    if not 0 <= n_experts <= 4096:
        raise UnsupportedError(f"config.json says that the model has {n_experts} experts; expected at most 4096.")
    for layer in range(config.count("num_hidden_layers")):
        moe = next((m for m in ("block_sparse_moe", "mlp") if f"model.layers.{layer}.{m}.gate.weight" in names), None)
        if n_experts == 0 or moe is None:
            continue
        block, module = f"blk.{layer}.ffn", f"model.layers.{layer}.{moe}"
        recipes[f"{block}_gate_inp.weight"] = copy(f"{module}.gate.weight")
        if f"{module}.experts.gate_up_proj" in names:
            recipes |= fused_experts(block, f"{module}.experts")
            continue
        for role, weight in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            experts = [f"{module}.experts.{x}.{weight}.weight" for x in range(n_experts)]
            if all(expert in names for expert in experts):
                recipes[f"{block}_{role}_exps.weight"] = stacked(experts)
    return recipes


def _spec(source: Source, context: int | None) -> Spec:
    return base_spec(source, "llama", context, style="interleaved")


LLAMA = Family(
    arch="llama",
    model_types=("llama", "mistral", "mixtral"),
    metadata=llama_metadata,
    spec=_spec,
    names=LLAMA_NAMES,
    transforms=rotary_rows,
    extra=_extra,
)
