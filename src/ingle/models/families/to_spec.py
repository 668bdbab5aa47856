"""From GGUF metadata to a Spec: the settings that all families have."""

from __future__ import annotations

from typing import Any, Literal

from ingle.errors import UnsupportedError
from ingle.models.families.family import is_local
from ingle.models.rope import base_frequencies, rope_of
from ingle.models.source import Source
from ingle.models.spec import Experts, NormKind, Rope, Spec

__all__ = ["base_spec"]


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
