"""Rotary position embeddings from metadata: every scaling becomes frequencies and one magnitude."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingle.errors import UnsupportedError
from ingle.models.source import Source
from ingle.models.spec import Rope

__all__ = ["base_frequencies", "llama3_factors", "rope_of", "yarn_frequencies", "yarn_magnitude"]

Frequencies = NDArray[np.float64]  # radians per position, one for each pair of dimensions


def base_frequencies(n_dims: int, base: float) -> Frequencies:
    """base^(-2i / n_dims) for pairs i (Su et al., arXiv 2104.09864, section 3.2.2)."""
    if not (1.001 < base < 1e30 and n_dims % 2 == 0):
        raise UnsupportedError(
            f"The model rotates {n_dims} dimensions with base {base}; expected an even number and a base above 1: "
            "convert the model again."
        )
    return base ** (-np.arange(0, n_dims, 2, dtype=np.float64) / n_dims)


def llama3_factors(
    frequencies: Frequencies, factor: float, low: float, high: float, original_context: int
) -> Frequencies:
    """What Llama 3.1 divides its frequencies by (Meta's `apply_scaling`, github.com/meta-llama/llama-models).

    Waves that turn more than `high` times in the original context stay, those that turn less than `low` times are
    slowed by `factor`, and between them 1/factor is interpolated. A GGUF file carries the result as rope_freqs.weight.
    """
    turns = original_context * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - smooth) / factor + smooth)


def yarn_frequencies(
    frequencies: Frequencies, base: float, factor: float, original_context: int, beta_fast: float, beta_slow: float
) -> Frequencies:
    """YaRN (Peng et al., arXiv 2309.00071, section 3.2): fast pairs stay, slow ones are divided by `factor`.

    The ramp between them runs over whole pairs, from the one that turns `beta_fast` times in the original context to
    the one that turns `beta_slow` times.
    """
    n_dims = 2 * len(frequencies)

    def pair(turns: float) -> float:
        return n_dims * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(pair(beta_fast)), 0)
    last = min(math.ceil(pair(beta_slow)), n_dims - 1)
    ramp = np.clip((np.arange(len(frequencies)) - first) / max(last - first, 0.001), 0.0, 1.0)
    return frequencies * (1 - ramp) + frequencies / factor * ramp


def yarn_magnitude(factor: float) -> float:
    """YaRN's correction of the attention temperature, sqrt(1/t) = 0.1 ln(factor) + 1."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def rope_of(
    source: Source, arch: str, style: Literal["interleaved", "half"], head_dim: int, n_context: int, context: int | None
) -> Rope:
    """The rotation that the metadata `{arch}.rope.*` and the factor tensors of a source describe.

    `context` decides between the short and the long factors of LongRoPE (arXiv 2402.13753), as the model's own code
    does by the length it is asked for; None stands for `n_context`, the most that the model was made for.
    """
    meta = source.metadata
    n_dims = meta.get_int(f"{arch}.rope.dimension_count", head_dim)
    base = meta.get_float(f"{arch}.rope.freq_base", 10000.0)
    if not 0 < n_dims <= head_dim:
        raise UnsupportedError(f"{source.name} rotates {n_dims} dimensions of {head_dim}; convert the model again.")
    frequencies = base_frequencies(n_dims, base)
    magnitude = meta.get_float(f"{arch}.rope.scaling.attn_factor", 1.0)
    original = meta.get_int(f"{arch}.rope.scaling.original_context_length", n_context)
    which = "long" if (context or n_context) > original else "short"
    for name in ("rope_freqs.weight", f"rope_factors_{which}.weight"):
        if name in source.tensors:
            frequencies = frequencies / _factors(source, name, len(frequencies))
            break
    kind = meta.get_str(f"{arch}.rope.scaling.type", "none")
    factor = meta.get_float(f"{arch}.rope.scaling.factor", meta.get_float(f"{arch}.rope.scale_linear", 1.0))
    fast = meta.get_float(f"{arch}.rope.scaling.yarn_beta_fast", 32.0)
    slow = meta.get_float(f"{arch}.rope.scaling.yarn_beta_slow", 1.0)
    if not (all(1e-12 < x < 1e12 for x in (factor, fast, slow, magnitude)) and 0 < original < 2**31):
        raise UnsupportedError(
            f"{source.name} scales its rotation by {factor} from {original} positions (magnitude {magnitude}, betas "
            f"{fast} and {slow}); expected positive numbers: convert the model again."
        )
    if kind == "yarn":
        frequencies = yarn_frequencies(frequencies, base, factor, original, fast, slow)
        magnitude *= meta.get_float(f"{arch}.rope.scaling.yarn_attn_factor", yarn_magnitude(factor))
    elif kind == "linear" or (kind == "none" and f"{arch}.rope.scale_linear" in meta):
        frequencies = frequencies / factor  # positions divided by the factor (Chen et al., arXiv 2306.15595)
    elif kind not in ("none", "longrope"):
        raise UnsupportedError(
            f"{source.name} scales its rotation by {kind!r}; Ingle has linear, yarn, longrope and Llama 3's."
        )
    return Rope(style, tuple(frequencies.tolist()), magnitude)


def _factors(source: Source, name: str, n: int) -> NDArray[np.float32]:
    factors = source.tensors[name].float32()
    if factors.shape != (n,) or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise UnsupportedError(
            f"Tensor {name} of {source.name} must have {n} positive factors, but has shape {list(factors.shape)} or "
            "other values; convert the model again."
        )
    return factors
