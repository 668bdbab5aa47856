"""MobileLLM (Liu et al., arXiv 2402.14905), and the small decoders of our trainer that no other architecture can say.

MobileLLM is a Llama that ties its embeddings under a private flag and may run each layer several times. Without that
sharing it is written as "llama", so that other tools run it; with it as "mobilellm", under keys of our own:

    mobilellm.layer_sharing       "immediate", "repeat" or "reverse"; in the order of `schedule_of`
    mobilellm.layer_repeat        how often each layer runs; 1 shares nothing
    mobilellm.hidden_activation   "silu" (where the file does not say), "gelu", "relu" or "relu2"
    mobilellm.feed_forward_gated  true (where the file does not say): down(act(gate x) * up x); false: down(act(up x))
    mobilellm.attention.qk_norm   false (where the file does not say); true: each head of q and k is RMS-normed first
    mobilellm.rope.style          "interleaved" (where the file does not say) or "half", as `models.spec.Rope` has them

Apertus (arXiv 2509.14233) has this shape with q and k normed and one more activation, xIELU, which Ingle does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ingle.errors import CheckpointError, UnsupportedError
from ingle.models.config import Config
from ingle.models.families.family import LLAMA_NAMES, Family
from ingle.models.families.from_config import base_metadata, expect_activation, rope_tensors
from ingle.models.families.llama import llama_metadata, rotary_rows
from ingle.models.families.to_spec import base_spec
from ingle.models.recipes import Transform
from ingle.models.source import Source
from ingle.models.spec import Activation, Spec

__all__ = ["MOBILELLM", "decoder_metadata", "schedule_of"]

_MAX_REPEAT = 64
_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu": "gelu", "relu": "relu", "relu2": "relu2"}
_STYLES: dict[str, Literal["interleaved", "half"]] = {"interleaved": "interleaved", "half": "half"}
_APERTUS_NAMES = {
    "blk.{i}.attn_norm": "model.layers.{i}.attention_layernorm",
    "blk.{i}.ffn_norm": "model.layers.{i}.feedforward_layernorm",
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
}


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


def decoder_metadata(
    *,
    activation: str = "silu",
    gated: bool = True,
    qk_norm: bool = False,
    style: Literal["interleaved", "half"] = "half",
    sharing: str = "immediate",
    repeat: int = 1,
) -> dict[str, Any]:
    """The keys of "mobilellm" that no other architecture has. Raises UnsupportedError for an unknown activation."""
    _expect_known(activation)
    return {
        "mobilellm.layer_sharing": sharing,
        "mobilellm.layer_repeat": repeat,
        "mobilellm.hidden_activation": activation,
        "mobilellm.feed_forward_gated": gated,
        "mobilellm.attention.qk_norm": qk_norm,
        "mobilellm.rope.style": style,
    }


def _expect_known(activation: str) -> None:
    if activation not in _ACTIVATIONS:
        raise UnsupportedError(
            f"The model has the activation {activation!r}; Ingle has {', '.join(_ACTIVATIONS)} for this family."
        )


def _sharing(config: Config) -> str | None:
    """How layers are shared. Meta's configurations have only true or false; true is "immediate"."""
    if "layer_sharing" not in config:
        return None
    try:
        return config.text("layer_sharing")
    except CheckpointError:
        return "immediate" if config.flag("layer_sharing") else None


def _is_apertus(config: Config) -> bool:
    return config.text("model_type", default="mobilellm") == "apertus"


def _apertus_activation(config: Config) -> str:
    return config.text("hidden_act", default="xielu")


def _names(config: Config) -> Mapping[str, str]:
    if not _is_apertus(config):
        return {}
    _expect_known(_apertus_activation(config))  # before its parameters are found to have no place
    return _APERTUS_NAMES


def _metadata(config: Config) -> dict[str, Any]:
    if _is_apertus(config):
        if not any(name in config for name in ("rope_parameters", "rope_theta")):
            raise CheckpointError("config.json has no rope_parameters; download it again in the layout of today.")
        keys = decoder_metadata(activation=_apertus_activation(config), gated=False, qk_norm=True)
        return (
            base_metadata("mobilellm", config.over(Config({"rms_norm_eps": 1e-5}, "the defaults of the family"))) | keys
        )
    sharing = _sharing(config)
    if sharing is None:
        return llama_metadata(config)
    expect_activation(config, "silu")
    repeat = config.count("layer_repeat", default=2)
    if repeat > _MAX_REPEAT:
        raise UnsupportedError(f"config.json runs each layer {repeat} times; expected up to {_MAX_REPEAT}.")
    schedule_of(sharing, 1, repeat)  # refuses ways of sharing that there are not
    keys = decoder_metadata(style="interleaved", sharing=sharing, repeat=repeat)
    return base_metadata("mobilellm", config) | keys


def _spec(source: Source, context: int | None) -> Spec:
    meta = source.metadata
    repeat, n_layers = meta.get_int("mobilellm.layer_repeat", 2), meta.get_int("mobilellm.block_count")
    if not (0 < repeat <= _MAX_REPEAT and 0 < n_layers <= 1024):
        raise UnsupportedError(
            f"{source.name} runs {n_layers} layers {repeat} times; expected up to 1024 layers, up to "
            f"{_MAX_REPEAT} times."
        )
    activation = meta.get_str("mobilellm.hidden_activation", "silu")
    style = meta.get_str("mobilellm.rope.style", "interleaved")
    for what, value, known in (("activation", activation, _ACTIVATIONS), ("rotation", style, _STYLES)):
        if value not in known:
            raise UnsupportedError(
                f"{source.name} has the {what} {value!r}; Ingle has {', '.join(known)}: is this file newer than your "
                "Ingle?"
            )
    return base_spec(
        source,
        "mobilellm",
        context,
        style=_STYLES[style],
        schedule=schedule_of(meta.get_str("mobilellm.layer_sharing", "immediate"), n_layers, repeat),
        activation=_ACTIVATIONS[activation],
        gated=meta.get_bool("mobilellm.feed_forward_gated", True),
        qk_norm="head" if meta.get_bool("mobilellm.attention.qk_norm", False) else "none",
    )


def _transforms(config: Config) -> Mapping[str, Transform]:
    return {} if _is_apertus(config) else rotary_rows(config)


MOBILELLM = Family(
    arch="mobilellm",
    model_types=("mobilellm", "apertus"),
    metadata=_metadata,
    spec=_spec,
    names=LLAMA_NAMES,
    names_of=_names,
    transforms=_transforms,
    extra=rope_tensors,
    variant=lambda config: "mobilellm" if _is_apertus(config) or _sharing(config) else "llama",
)
