"""How a tensor under its GGUF name is made from a checkpoint's own tensors.

Nearly all recipes only move rows, so they work on the stored values as they are (bfloat16 as its bits) and nothing is
rounded; the ones that calculate say so and get float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Recipe",
    "Transform",
    "constant",
    "copy",
    "expert_rows",
    "grouped_qkv",
    "interleaved",
    "plus_one",
    "stacked",
]

Array = NDArray[Any]
Shape = tuple[int, ...]
Transform = Callable[[str], "Recipe"]  # from a checkpoint's tensor name


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """make(arrays of `sources`) -> array of shape shape(shapes of `sources`); None stands for the bytes as they are.

    calculates: make changes values and wants float32. stacks: the result is the sources, one after the other.
    """

    sources: tuple[str, ...]
    make: Callable[[Sequence[Array]], Array] | None = None
    shape: Callable[[Sequence[Shape]], Shape] = lambda shapes: shapes[0]
    calculates: bool = False
    stacks: bool = False


def copy(source: str) -> Recipe:
    """The tensor as it is."""
    return Recipe((source,))


def constant(values: Sequence[float]) -> Recipe:
    """A float32 vector that comes from the configuration."""
    array = np.asarray(values, dtype=np.float32)
    return Recipe((), lambda _: array, lambda _: array.shape, calculates=True)


def interleaved(n_heads: int) -> Transform:
    """Rows of q or k (or entries of their bias), reordered for the interleaved rotation.

    Checkpoints of the Llama family rotate dimension i of a head with i + D/2; Meta's original weights and GGUF files
    rotate 2i with 2i + 1. Dimension i therefore moves to 2i, and i + D/2 to 2i + 1.
    """

    def make(arrays: Sequence[Array]) -> Array:
        x = arrays[0]
        return x.reshape(n_heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    return lambda source: Recipe((source,), make)


def grouped_qkv(n_heads: int, n_kv_heads: int) -> Transform:
    """Falcon's fused rows: K groups of (H/K query heads, a key head, a value head) -> all q, then all k, then all v."""
    group = n_heads // n_kv_heads

    def make(arrays: Sequence[Array]) -> Array:
        x = arrays[0]
        heads = x.reshape(n_kv_heads, group + 2, -1, *x.shape[1:])
        parts = (heads[:, :group], heads[:, group : group + 1], heads[:, group + 1 :])
        return np.concatenate([part.reshape(-1, *x.shape[1:]) for part in parts])

    return lambda source: Recipe((source,), make)


def plus_one(source: str) -> Recipe:
    """Gemma stores its norm weights as the difference to one."""
    return Recipe((source,), lambda arrays: arrays[0] + np.float32(1), calculates=True)


def stacked(sources: Sequence[str]) -> Recipe:
    """Several tensors of one shape under a new first dimension (experts; the norms of heads)."""
    return Recipe(
        tuple(sources), lambda arrays: np.stack(arrays), lambda shapes: (len(shapes), *shapes[0]), stacks=True
    )


def expert_rows(source: str, part: int, n_parts: int) -> Recipe:
    """[X, n_parts * F, E] -> rows [part * F, (part + 1) * F) of each expert."""

    def make(arrays: Sequence[Array]) -> Array:
        x = arrays[0]
        n = x.shape[1] // n_parts
        return x[:, part * n : (part + 1) * n]

    return Recipe((source,), make, lambda shapes: (shapes[0][0], shapes[0][1] // n_parts, *shapes[0][2:]))
