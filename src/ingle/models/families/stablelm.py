"""StableLM: 3B-4E1T and Zephyr (LayerNorm, partial rotation), 2-1.6B (biases), 2-12B (normed heads, parallel)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Recipe, stacked
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["STABLELM"]


def _metadata(config: Config) -> dict[str, Any]:
    expect_activation(config, "silu")
    keys = base_metadata("stablelm", config, norm="layer", partial_rotary=config.positive("rope_pct", default=0.25))
    return keys | {"stablelm.use_parallel_residual": config.flag("use_parallel_residual", default=False)}


def _head_norms(config: Config, names: Collection[str]) -> dict[str, Recipe]:
    """A norm for every head of q and of k, stacked to [heads, D]."""
    recipes = rope_tensors(config)
    heads = config.count("num_attention_heads")
    if config.flag("qk_layernorm", default=False):
        for layer in range(config.count("num_hidden_layers")):
            for role, n in (("q", heads), ("k", config.count("num_key_value_heads", default=heads))):
                module = f"model.layers.{layer}.self_attn.{role}_layernorm"
                norms = [f"{module}.norms.{head}.weight" for head in range(n)]
                if all(norm in names for norm in norms):
                    recipes[f"blk.{layer}.attn_{role}_norm.weight"] = stacked(norms)
    return recipes


def _spec(source: Source, context: int | None) -> Spec:
    # The tensors decide, not use_parallel_residual: files are about where the key is true for a sequential model.
    return base_spec(
        source,
        "stablelm",
        context,
        norm="layer",
        parallel="blk.0.ffn_norm.weight" not in source.headers,
        qk_norm="head" if "blk.0.attn_q_norm.weight" in source.headers else "none",
    )


STABLELM = Family("stablelm", ("stablelm", "stablelm_epoch"), _metadata, _spec, LLAMA_NAMES, extra=_head_norms)
