"""Falcon: 7B (one key/value head, one norm, parallel), 40B and 11B (grouped heads, two norms), RefinedWeb 1B (ALiBi).

The RefinedWeb models are sequential, have biases, and ALiBi instead of a rotation. GGUF has no such variant of falcon,
so it is said by `falcon.attention.max_alibi_bias` and `falcon.use_parallel_residual`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import Family
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Transform, grouped_qkv
from ingle.models.source import Source
from ingle.models.spec import Spec

__all__ = ["FALCON", "alibi_slopes"]

_NAMES = {
    "token_embd": "transformer.word_embeddings",
    "blk.{i}.attn_norm": "transformer.h.{i}.input_layernorm",
    "blk.{i}.ffn_norm": "transformer.h.{i}.post_attention_layernorm",
    "blk.{i}.attn_qkv": "transformer.h.{i}.self_attention.query_key_value",
    "blk.{i}.attn_output": "transformer.h.{i}.self_attention.dense",
    "blk.{i}.ffn_up": "transformer.h.{i}.mlp.dense_h_to_4h",
    "blk.{i}.ffn_down": "transformer.h.{i}.mlp.dense_4h_to_h",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_MAX_BIAS = 8.0


def alibi_slopes(n_heads: int, max_bias: float) -> tuple[float, ...]:
    """ALiBi's slopes (Press et al., arXiv 2108.12409): a geometric series where the heads are a power of two; otherwise
    that of the next lower power, filled up with every other slope of the next higher."""
    n = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-max_bias * (h + 1) / n) for h in range(n)]
    slopes += [2 ** (-max_bias * (2 * h + 1) / (2 * n)) for h in range(n_heads - n)]
    return tuple(slopes)


def _kv_heads(config: Config) -> int:
    heads = config.count("num_attention_heads", "n_head")
    if config.flag("new_decoder_architecture", default=False):
        return config.count("num_kv_heads", "n_head_kv", default=heads)
    return 1 if config.flag("multi_query", default=True) else heads


def _metadata(config: Config) -> dict[str, Any]:
    expect_activation(config, "gelu")
    width = config.count("hidden_size")
    keys = base_metadata("falcon", config, norm="layer") | {
        "falcon.tensor_data_layout": "jploski",  # q, k and v one after the other: `grouped_qkv`
        "falcon.attention.head_count_kv": _kv_heads(config),
        "falcon.feed_forward_length": config.count("ffn_hidden_size", default=4 * width),
    }
    if config.flag("alibi", default=False):
        keys["falcon.attention.max_alibi_bias"] = _MAX_BIAS
    if not _parallel(config):
        keys["falcon.use_parallel_residual"] = False
    return keys


def _parallel(config: Config) -> bool:
    return config.flag("parallel_attn", default=True) or config.flag("new_decoder_architecture", default=False)


def _names(config: Config) -> Mapping[str, str]:
    """Where the branches are normed separately, attn_norm_2 is the attention's and attn_norm the feed-forward's."""
    new = config.flag("new_decoder_architecture", default=False)
    if new and config.integer("num_ln_in_parallel_attn", default=2) == 2:
        return {"blk.{i}.attn_norm_2": "transformer.h.{i}.ln_attn", "blk.{i}.attn_norm": "transformer.h.{i}.ln_mlp"}
    return {}


def _transforms(config: Config) -> Mapping[str, Transform]:
    return {"attn_qkv": grouped_qkv(config.count("num_attention_heads", "n_head"), _kv_heads(config))}


def _spec(source: Source, context: int | None) -> Spec:
    meta = source.metadata
    max_bias = meta.get_float("falcon.attention.max_alibi_bias", 0.0)
    changes: dict[str, Any] = {"rope": None} if max_bias else {}
    changes["parallel"] = meta.get_bool("falcon.use_parallel_residual", True)
    spec = base_spec(source, "falcon", context, norm="layer", activation="gelu", gated=False, **changes)
    if not max_bias:
        return spec
    if not 0 < max_bias < 1000:
        raise UnsupportedError(f"{source.name} has an ALiBi bias of {max_bias}; expected about 8: convert it again.")
    # Falcon scales the biased scores, so its slopes are smaller than ALiBi's own by the square root of the head.
    slopes = tuple(slope * spec.score_scale for slope in alibi_slopes(spec.n_heads, max_bias))
    return replace(spec, alibi_slopes=slopes)


FALCON = Family(
    arch="falcon",
    model_types=("falcon",),
    metadata=_metadata,
    spec=_spec,
    names=_NAMES,
    names_of=_names,
    transforms=_transforms,
    extra=rope_tensors,
    tied_by_default=True,
)
