"""Qwen 1.5, 2 and 2.5 (biases on q, k and v), Qwen 3 (q and k normed per head instead), Qwen 3 with experts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family, fused_experts
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Recipe, copy, stacked
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["QWEN2", "QWEN3", "QWEN3MOE"]

_QWEN3_NAMES = LLAMA_NAMES | {
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
}


def _dense(arch: str) -> Callable[[Config], dict[str, Any]]:
    def metadata(config: Config) -> dict[str, Any]:
        expect_activation(config, "silu")
        first_local = config.integer("max_window_layers", default=0)
        return base_metadata(arch, config, window_by_default=False, first_local=first_local)

    return metadata


def _moe_metadata(config: Config) -> dict[str, Any]:
    expect_activation(config, "silu")
    if config.integer("decoder_sparse_step", default=1) != 1 or config.numbers("mlp_only_layers", default=[]):
        raise UnsupportedError("config.json mixes layers with and without experts, which Ingle does not support.")
    return base_metadata("qwen3moe", config, window_by_default=False) | {
        "qwen3moe.expert_count": config.integer("num_experts", "num_local_experts"),
        "qwen3moe.expert_used_count": config.count("num_experts_per_tok"),
        "qwen3moe.expert_feed_forward_length": config.count("moe_intermediate_size"),
        "qwen3moe.expert_weights_norm": config.flag("norm_topk_prob", default=False),
    }


def _experts(config: Config, names: Collection[str]) -> dict[str, Recipe]:
    recipes = rope_tensors(config)
    n_experts = config.integer("num_experts", "num_local_experts")
    if not 0 < n_experts <= 4096:
        raise UnsupportedError(f"config.json says that the model has {n_experts} experts; expected 1 to 4096.")
    for layer in range(config.count("num_hidden_layers")):
        block, module = f"blk.{layer}.ffn", f"model.layers.{layer}.mlp"
        if f"{module}.gate.weight" in names:
            recipes[f"{block}_gate_inp.weight"] = copy(f"{module}.gate.weight")
        if f"{module}.experts.gate_up_proj" in names:
            recipes |= fused_experts(block, f"{module}.experts")
            continue
        for role in ("gate", "down", "up"):
            experts = [f"{module}.experts.{x}.{role}_proj.weight" for x in range(n_experts)]
            if all(expert in names for expert in experts):
                recipes[f"{block}_{role}_exps.weight"] = stacked(experts)
    return recipes


def _spec(arch: str, **changes: Any) -> Callable[[Source, int | None], Spec]:
    return lambda source, context: base_spec(source, arch, context, **changes)


QWEN2 = Family("qwen2", ("qwen2",), _dense("qwen2"), _spec("qwen2"), LLAMA_NAMES, extra=rope_tensors)
QWEN3 = Family("qwen3", ("qwen3",), _dense("qwen3"), _spec("qwen3", qk_norm="head"), _QWEN3_NAMES, extra=rope_tensors)
QWEN3MOE = Family(
    "qwen3moe", ("qwen3_moe",), _moe_metadata, _spec("qwen3moe", qk_norm="head"), _QWEN3_NAMES, extra=_experts
)
