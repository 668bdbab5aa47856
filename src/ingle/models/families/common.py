"""What families share: a `Family` is names, settings and a few deviations; the decoder it describes is a `Spec`.

Tensor names and metadata keys are those of the GGUF specification and of llama.cpp's converters, so that files made
here run elsewhere and files made elsewhere run here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ingle.errors import UnsupportedError
from ingle.models.config import Config
from ingle.models.recipes import Recipe, Transform, constant, copy, expert_rows
from ingle.models.rope import base_frequencies, llama3_factors, rope_of, yarn_magnitude
from ingle.models.source import Source
from ingle.models.spec import Experts, NormKind, Rope, Spec

__all__ = [
    "LLAMA_NAMES",
    "Family",
    "base_metadata",
    "base_spec",
    "expect_activation",
    "fused_experts",
    "head_dim_of",
    "rope_tensors",
]

#: GGUF stems and the modules of a checkpoint in Llama's layout, which most families follow.
LLAMA_NAMES: dict[str, str] = {
    "token_embd": "model.embed_tokens",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
    "output_norm": "model.norm",
    "output": "lm_head",
}

_NO_TRANSFORMS: Mapping[str, Transform] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One architecture.

    arch: its name in GGUF (`general.architecture`). model_types: its names in a config.json.
    names: GGUF stem -> module; weights and biases follow it, a missing bias is no bias.
    metadata: configuration -> GGUF metadata. spec: (source, context) -> Spec.
    transforms: configuration -> what is done to a stem's tensors, for those that are not copied.
    extra: (configuration, tensor names) -> recipes that no row of `names` can express.
    tied_by_default: what a configuration means that does not say.
    names_of: configuration -> further rows of `names`, for variants.
    variant: configuration -> the GGUF architecture it is written as, where that is not `arch`.
    """

    arch: str
    model_types: tuple[str, ...]
    metadata: Callable[[Config], dict[str, Any]]
    spec: Callable[[Source, int | None], Spec]
    names: Mapping[str, str]
    transforms: Callable[[Config], Mapping[str, Transform]] = lambda config: _NO_TRANSFORMS
    extra: Callable[[Config, Collection[str]], dict[str, Recipe]] = lambda config, names: {}
    tied_by_default: bool = False
    names_of: Callable[[Config], Mapping[str, str]] = lambda config: {}
    variant: Callable[[Config], str] | None = None

    def written_as(self, config: Config) -> str:
        """The value of `general.architecture`."""
        return self.variant(config) if self.variant else self.arch

    def n_layers(self, config: Config) -> int:
        """Layers with weights, bounded before anything is sized by it."""
        n = config.count("num_hidden_layers", "n_layer")
        if not 0 < n <= 1024:
            raise UnsupportedError(f"config.json says that the model has {n} layers; expected 1 to 1024.")
        return n

    def tied(self, config: Config, has_head: bool) -> bool:
        """Whether the output matrix is the embedding (MobileLLM says so under a name of its own)."""
        if "tie_word_embeddings" not in config and "share_embedding" not in config:
            return self.tied_by_default or not has_head
        return config.flag("share_embedding", default=False) or config.flag("tie_word_embeddings", default=False)


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


def is_local(layer: int, every: int) -> bool:
    """Of `every` layers the last is global; 0: all are local."""
    return every == 0 or layer % every < every - 1


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


def fused_experts(block: str, module: str) -> dict[str, Recipe]:
    """A layer's experts where transformers keeps them as gate_up_proj [X, 2F, E] and down_proj [X, E, F]."""
    return {
        f"{block}_gate_exps.weight": expert_rows(f"{module}.gate_up_proj", 0, 2),
        f"{block}_up_exps.weight": expert_rows(f"{module}.gate_up_proj", 1, 2),
        f"{block}_down_exps.weight": copy(f"{module}.down_proj"),
    }


def expect_activation(config: Config, *names: str) -> None:
    """Refuse an activation that the GGUF architecture cannot say."""
    name = config.text("hidden_activation", "hidden_act", "activation", default=names[0])
    if name not in names:
        raise UnsupportedError(
            f"config.json has the activation {name!r} where its family has {names[0]}; this variant is not supported."
        )


def base_spec(
    source: Source,
    arch: str,
    context: int | None,
    *,
    style: Literal["interleaved", "half"] = "half",
    norm: NormKind = "rms",
    default_window: int = 0,
    local_every: int = 0,
    local_rope_base: float = 0.0,
    **changes: Any,
) -> Spec:
    """The Spec that an architecture's keys describe, with a family's `changes`.

    local_every: n stands for "of n layers the last is global" where the file does not say; 0 for "all are local".
    local_rope_base: the base of local layers' unscaled rotation, where they have one of their own.
    """
    meta = source.metadata
    n_layers = _positive(source, f"{arch}.block_count", 1024)
    n_heads = _positive(source, f"{arch}.attention.head_count", 2**16)
    width = _positive(source, f"{arch}.embedding_length", 2**24)
    n_ff = _positive(source, f"{arch}.feed_forward_length", 2**24)
    n_context = _positive(source, f"{arch}.context_length", 2**31 - 1)
    head_dim = _positive(source, f"{arch}.attention.key_length", 2**16, width // n_heads)
    if meta.get_int(f"{arch}.attention.value_length", head_dim) != head_dim:
        raise UnsupportedError(f"{source.name} has keys and values of different sizes, which Ingle does not support.")
    embedding = source.headers.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise UnsupportedError(
            f"{source.name} has no matrix {source.origin('token_embd.weight')}; expected a whole decoder: get the "
            "model's main file."
        )
    eps_key = "layer_norm_rms_epsilon" if norm == "rms" else "layer_norm_epsilon"
    schedule = changes.pop("schedule", tuple(range(n_layers)))
    window = min(max(meta.get_int(f"{arch}.attention.sliding_window", default_window), 0), 2**31 - 1)
    fields: dict[str, Any] = {
        "family": arch,
        "n_vocab": embedding.shape[0],
        "n_embd": width,
        "n_ff": n_ff,
        "n_heads": n_heads,
        "n_kv_heads": meta.get_int(f"{arch}.attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "n_context": n_context,
        "schedule": schedule,
        "norm": norm,
        "norm_eps": meta.get_float(f"{arch}.attention.{eps_key}"),
        "attention_scale": meta.get_float(f"{arch}.attention.scale", 0.0),
        "window": window,
        "local": _local(source, arch, n_layers, local_every, schedule) if window else (),
        "tied": "output.weight" not in source.headers,
        "experts": _experts(source, arch, n_ff),
    }
    if "rope" not in changes:
        fields["rope"] = rope_of(source, arch, style, head_dim, n_context, context)
    if local_rope_base:
        fields["rope_local"] = Rope(style, tuple(base_frequencies(head_dim, local_rope_base).tolist()))
    spec = Spec(**(fields | changes))
    for name in ("norm_eps", "attention_scale", "attention_softcap", "logit_softcap"):
        value = getattr(spec, name)
        if not (0 <= value < 1e6 and (value > 0 or name != "norm_eps")):
            raise UnsupportedError(
                f"{source.name} says its {name} is {value}; expected a positive number: convert it again."
            )
    return spec


def _positive(source: Source, key: str, limit: int, default: int | None = None) -> int:
    value = source.metadata.get_int(key) if default is None else source.metadata.get_int(key, default)
    if not 0 < value <= limit:
        raise UnsupportedError(f"{source.name} says {key} is {value}; expected 1 to {limit}: convert the model again.")
    return value


def _local(source: Source, arch: str, n_layers: int, every: int, schedule: tuple[int, ...]) -> tuple[bool, ...]:
    """Which passes are local: the file's pattern (an array, or its period), or the family's."""
    key = f"{arch}.attention.sliding_window_pattern"
    if key in source.metadata and not isinstance(source.metadata[key], int):
        layers = [bool(local) for local in source.metadata.get_array(key)]
        if len(layers) < n_layers:
            raise UnsupportedError(
                f"{source.name} has {len(layers)} entries in {key} for {n_layers} layers; convert it again."
            )
    else:
        every = source.metadata.get_int(key, every)
        layers = [is_local(layer, every) for layer in range(n_layers)]
    return tuple(layers[layer] for layer in schedule)


def _experts(source: Source, arch: str, n_ff: int) -> Experts | None:
    meta = source.metadata
    n = meta.get_int(f"{arch}.expert_count", 0)
    if n == 0:
        return None
    if not 0 < n <= 4096:
        raise UnsupportedError(f"{source.name} says that it has {n} experts; expected at most 4096: convert it again.")
    used = _positive(source, f"{arch}.expert_used_count", n)
    width = _positive(source, f"{arch}.expert_feed_forward_length", 2**24, n_ff)
    return Experts(n, used, width, normalised=meta.get_bool(f"{arch}.expert_weights_norm", True))
