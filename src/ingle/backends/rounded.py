"""The reference with the roundings that kernels may make: a model of what a fast backend computes.

A fast backend differs from the reference because it rounds what its matrices multiply (native/src/linear.h), and
because it sums floats in another order. Here the first is done in NumPy, independently of the kernels; how much the
second does is seen by computing the same in float64 and in float32. So this model predicts how far a backend is from
the reference; one that is farther has a fault (`ingle.evaluate.rounding` finds it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingle.backends.reference import ReferenceBackend
from ingle.gguf import TensorType
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

__all__ = ["RoundedBackend", "Rounding", "rounded_bf16", "rounded_int8", "rounding_of"]

Floats: TypeAlias = NDArray[np.floating[Any]]
Rounding = Literal["none", "int8", "bf16"]

_GROUP = 32  # columns that share the scale of an activation
_TINY = 1e-30  # groups whose largest value is below count as zero


def rounding_of(type: TensorType, *, tiles: bool) -> Rounding:
    """What a matrix of this type rounds: nothing, its input to int8, or itself and its input to bf16.

    tiles: whether matrix tiles (AMX) multiply, which they do for many rows at once; see native/src/linear.h.
    """
    if not type.is_quantized:
        return "none"
    return "bf16" if tiles else "int8"


def rounded_int8(x: Floats) -> Floats:
    """x [N, k] as whole multiples of a scale, max|x| / 127 in each group of 32 columns; halves go to even."""
    groups = x.reshape(len(x), -1, _GROUP)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / x.dtype.type(127)
    scale[scale < _TINY / 127] = 0
    codes = np.rint(np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0))
    y: Floats = (codes * scale).reshape(x.shape)
    return y


def rounded_bf16(x: Floats) -> Floats:
    """x with the 8 significant bits of a bfloat16; halves go to even."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(x.dtype)


class RoundedBackend(ReferenceBackend):
    """The four verbs of the reference, in `dtype`, with inputs (and weights) of matrices rounded as kernels round them.

    Keys and values are what the cache holds, as in the reference. The matrices of experts are not rounded.
    """

    name = "rounded"

    def __init__(self, spec: Spec, *, tiles: bool = False, dtype: type[np.floating[Any]] = np.float64) -> None:
        """tiles: as for `rounding_of`; give such a backend many rows at once, for native code to do so too."""
        super().__init__(spec)
        self._tiles = tiles
        self._dtype = dtype

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {role: self._loaded(tensor) for role, tensor in tensors.items()}

    load_attention = load_feed_forward = load_embedding

    def _loaded(self, tensor: Tensor) -> Any:
        values = tensor.float32().astype(self._dtype)
        return values if values.ndim != 2 else _Matrix(values, rounding_of(tensor.type, tiles=self._tiles))


class _Matrix:
    """A weight [n, k], to be written `x @ weight.T` or `weight[rows]` like any array."""

    __array_ufunc__ = None  # NumPy leaves x @ this to __rmatmul__

    def __init__(self, weight: Floats, rounding: Rounding) -> None:
        self._weight = weight
        self._multiplied = rounded_bf16(weight) if rounding == "bf16" else weight
        self._round = _ROUND[rounding]

    def __getitem__(self, rows: NDArray[np.int32]) -> Floats:
        return self._weight[rows]

    @property
    def T(self) -> _Matrix:
        return self

    def __rmatmul__(self, x: Floats) -> Floats:
        y: Floats = self._round(x.astype(self._weight.dtype, copy=False)) @ self._multiplied.T
        return y


_ROUND: dict[Rounding, Callable[[Floats], Floats]] = {
    "none": lambda x: x,
    "int8": rounded_int8,
    "bf16": rounded_bf16,
}
