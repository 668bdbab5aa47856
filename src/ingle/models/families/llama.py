"""Llama 1 to 3, Mistral, Mixtral, and everything that copied their shape (TinyLlama, SmolLM, Yi, ...); and MobileLLM.

MobileLLM (Liu et al., arXiv 2402.14905) is a Llama that ties its embeddings under a private flag and may run each
layer twice. Without that sharing it is written as "llama", so that other tools run it; with it as "mobilellm", under
keys of our own: `mobilellm.layer_sharing` ("immediate", "repeat" or "reverse") and `mobilellm.layer_repeat`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ingle.errors import CheckpointError, UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family, fused_experts
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Recipe, Transform, copy, interleaved, stacked
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["LLAMA", "MOBILELLM", "schedule_of"]

_MAX_REPEAT = 64


def _metadata(config: Config) -> dict[str, Any]:
    expect_activation(config, "silu")
    return base_metadata("llama", config) | _expert_keys(config)


def _expert_keys(config: Config) -> dict[str, Any]:
    if "num_local_experts" not in config:
        return {}
    return {
        "llama.expert_count": config.integer("num_local_experts"),
        "llama.expert_used_count": config.count("num_experts_per_tok", default=2),
    }


def _transforms(config: Config) -> Mapping[str, Transform]:
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
    metadata=_metadata,
    spec=_spec,
    names=LLAMA_NAMES,
    transforms=_transforms,
    extra=_extra,
)


def schedule_of(sharing: str, n_layers: int, repeat: int) -> tuple[int, ...]:
    """The layer of each pass: "immediate" 0 0 1 1, "repeat" 0 1 0 1, "reverse" 0 1 1 0 (for two layers, twice)."""
    layers = list(range(n_layers))
    if sharing == "immediate":
        return tuple(layer for layer in layers for _ in range(repeat))
    if sharing == "repeat":
        return tuple(layers * repeat)
    if sharing == "reverse":
        return tuple(layer for turn in range(repeat) for layer in (layers if turn % 2 == 0 else reversed(layers)))
    raise UnsupportedError(f"The model shares its layers by {sharing!r}; expected immediate, repeat or reverse.")


def _sharing(config: Config) -> str | None:
    """How layers are shared. Meta's configurations have only true or false; true is "immediate"."""
    if "layer_sharing" not in config:
        return None
    try:
        return config.text("layer_sharing")
    except CheckpointError:
        return "immediate" if config.flag("layer_sharing") else None


def _mobilellm_metadata(config: Config) -> dict[str, Any]:
    sharing = _sharing(config)
    if sharing is None:
        return _metadata(config)
    expect_activation(config, "silu")
    repeat = config.count("layer_repeat", default=2)
    if repeat > _MAX_REPEAT:
        raise UnsupportedError(f"config.json runs each layer {repeat} times; expected up to {_MAX_REPEAT}.")
    schedule_of(sharing, 1, repeat)  # refuses ways of sharing that there are not
    return base_metadata("mobilellm", config) | {"mobilellm.layer_sharing": sharing, "mobilellm.layer_repeat": repeat}


def _mobilellm_spec(source: Source, context: int | None) -> Spec:
    meta = source.metadata
    repeat, n_layers = meta.get_int("mobilellm.layer_repeat", 2), meta.get_int("mobilellm.block_count")
    if not (0 < repeat <= _MAX_REPEAT and 0 < n_layers <= 1024):
        raise UnsupportedError(
            f"{source.name} runs {n_layers} layers {repeat} times; expected up to 1024 layers, up to "
            f"{_MAX_REPEAT} times."
        )
    schedule = schedule_of(meta.get_str("mobilellm.layer_sharing", "immediate"), n_layers, repeat)
    return base_spec(source, "mobilellm", context, style="interleaved", schedule=schedule)


MOBILELLM = Family(
    arch="mobilellm",
    model_types=("mobilellm",),
    metadata=_mobilellm_metadata,
    spec=_mobilellm_spec,
    names=LLAMA_NAMES,
    transforms=_transforms,
    extra=_extra,
    variant=lambda config: "llama" if _sharing(config) is None else "mobilellm",
)
