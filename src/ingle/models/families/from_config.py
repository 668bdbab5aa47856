"""From a Hugging Face configuration to GGUF metadata: the settings that all families have."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import is_local
from ingle.models.recipes import Recipe, constant
from ingle.models.rope import base_frequencies, llama3_factors, yarn_magnitude
from ingle.models.spec import NormKind

__all__ = ["base_metadata", "expect_activation", "head_dim_of", "rope_tensors"]


def head_dim_of(config: Config) -> int:
    """D: `head_dim`, or the width divided over the heads."""
    width, heads = config.count("hidden_size", "n_embd"), config.count("num_attention_heads", "n_head")
    return config.count("head_dim", default=width // heads)


def base_metadata(
    arch: str,
    config: Config,
    *,
    norm: NormKind = "rms",
    partial_rotary: float = 1.0,
    local_every: int = 0,
    window_by_default: bool = True,
    first_local: int = 0,
) -> dict[str, Any]:
    """The keys that every architecture has.

    partial_rotary: the part of a head that is rotated, where the configuration does not say.
    local_every: the pattern of local layers that readers of the architecture assume.
    window_by_default: whether a `sliding_window` counts without `use_sliding_window`.
    first_local: the first local layer, where the configuration lists no kinds.
    """
    heads = config.count("num_attention_heads", "n_head")
    head_dim = head_dim_of(config)
    keys: dict[str, Any] = {
        "vocab_size": config.count("vocab_size"),
        "context_length": config.count("max_position_embeddings", "n_positions", default=2048),
        "embedding_length": config.count("hidden_size", "n_embd"),
        "block_count": config.count("num_hidden_layers", "n_layer"),
        "feed_forward_length": config.count("intermediate_size", default=4 * config.count("hidden_size", "n_embd")),
        "attention.head_count": heads,
        "attention.head_count_kv": config.count("num_key_value_heads", default=heads),
    }
    if norm == "rms":
        keys["attention.layer_norm_rms_epsilon"] = config.positive("rms_norm_eps", default=1e-6)
    else:
        keys["attention.layer_norm_epsilon"] = config.positive(
            "layer_norm_eps", "layer_norm_epsilon", "norm_eps", default=1e-5
        )
    if "head_dim" in config:
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if config.flag("use_sliding_window", default=window_by_default):
        keys |= _window_keys(config, local_every, first_local)
    keys |= rope_keys(config, head_dim, partial_rotary)
    return {f"{arch}.{key}": value for key, value in keys.items()}


def _window_keys(config: Config, local_every: int, first_local: int) -> dict[str, Any]:
    """Sliding attention, and which layers it is for where readers would assume otherwise."""
    window, n_layers = min(config.integer("sliding_window", default=0), 2**31 - 1), config.count("num_hidden_layers")
    if window <= 0:
        return {}
    kinds = config.texts("layer_types")
    if any(kind not in ("sliding_attention", "full_attention") for kind in kinds):
        raise UnsupportedError(f"config.json has layers of the kinds {sorted(set(kinds))}; Ingle has full and sliding.")
    every = config.integer("sliding_window_pattern", default=local_every)
    local = [kind == "sliding_attention" for kind in kinds]
    local = local or [layer >= first_local and is_local(layer, every) for layer in range(n_layers)]
    if not any(local):
        return {"attention.sliding_window": 0} if local_every else {}
    assumed = [is_local(layer, local_every) for layer in range(n_layers)]
    pattern = {} if local == assumed else {"attention.sliding_window_pattern": np.asarray(local, dtype=np.bool_)}
    return {"attention.sliding_window": window} | pattern


def rope_keys(config: Config, head_dim: int, partial_rotary: float) -> dict[str, Any]:
    """The rotary settings, without the architecture's prefix."""
    rope = config.rope()
    kind = _rope_kind(rope)
    keys: dict[str, Any] = {
        "rope.dimension_count": int(head_dim * rope.positive("partial_rotary_factor", default=partial_rotary)),
        "rope.freq_base": rope.positive("rope_theta", default=10000.0),
    }
    if kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.positive("factor")}
    elif kind == "yarn":
        original = rope.count("original_max_position_embeddings")
        factor = rope.positive("factor", default=config.count("max_position_embeddings") / original)
        keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": factor}
        keys["rope.scaling.original_context_length"] = original
        magnitude = _yarn_attention_factor(rope, factor)
        if not math.isclose(magnitude, yarn_magnitude(factor), rel_tol=1e-6):
            keys["rope.scaling.yarn_attn_factor"] = magnitude
        for name in ("beta_fast", "beta_slow"):
            if name in rope:
                keys[f"rope.scaling.yarn_{name}"] = rope.positive(name)
    elif kind == "longrope":
        original = rope.count("original_max_position_embeddings")
        stretch = rope.positive("factor", default=config.count("max_position_embeddings") / original)
        usual = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0
        keys["rope.scaling.original_context_length"] = original
        keys["rope.scaling.attn_factor"] = rope.positive("attention_factor", default=usual)
    return keys


def _yarn_attention_factor(rope: Config, factor: float) -> float:
    if not rope.flag("truncate", default=True):
        raise UnsupportedError(
            "config.json asks for YaRN with fractional bounds (truncate: false), which Ingle does not have."
        )
    mscale, all_dims = rope.number("mscale", default=0.0), rope.number("mscale_all_dim", default=0.0)
    usual = yarn_magnitude(factor)
    if mscale and all_dims:
        usual = (1 + mscale * (usual - 1)) / (1 + all_dims * (usual - 1))
    return rope.positive("attention_factor", default=usual)


def _rope_kind(rope: Config) -> str:
    kind = rope.text("rope_type", "type", default="default").lower()
    # "dynamic" changes nothing up to the length the model was made for, and beyond it we do not go.
    kind = {"su": "longrope", "dynamic": "default", "none": "default"}.get(kind, kind)
    if kind not in ("default", "linear", "yarn", "longrope", "llama3"):
        raise UnsupportedError(
            f"config.json scales the rotation by {kind!r}; Ingle has linear, yarn, longrope, llama3 and dynamic."
        )
    return kind


def rope_tensors(config: Config, names: Collection[str] = ()) -> dict[str, Recipe]:
    """The factors of Llama 3's and LongRoPE's scaling, which GGUF carries as tensors."""
    rope = config.rope()
    kind = _rope_kind(rope)
    if kind == "llama3":
        low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
        if low >= high:
            raise UnsupportedError(
                f"config.json has low_freq_factor {low} and high_freq_factor {high}; expected low < high."
            )
        n_dims = int(head_dim_of(config) * rope.positive("partial_rotary_factor", default=1.0))
        frequencies = base_frequencies(n_dims, rope.positive("rope_theta", default=10000.0))
        factors = llama3_factors(
            frequencies,
            rope.positive("factor"),
            low,
            high,
            rope.count("original_max_position_embeddings"),
        )
        return {"rope_freqs.weight": constant(factors.tolist())}
    if kind == "longrope":
        return {
            f"rope_factors_{which}.weight": constant(rope.numbers(f"{which}_factor")) for which in ("long", "short")
        }
    return {}


def expect_activation(config: Config, *names: str) -> None:
    """Refuse an activation that the GGUF architecture cannot say."""
    name = config.text("hidden_activation", "hidden_act", "activation", default=names[0])
    if name not in names:
        raise UnsupportedError(
            f"config.json has the activation {name!r} where its family has {names[0]}; this variant is not supported."
        )
