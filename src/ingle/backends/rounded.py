"""The reference with the roundings that kernels may make: a model of what a fast backend computes.

A fast backend differs from the reference because it rounds what its matrices multiply (native/src/linear.h), and
because it sums floats in another order. Here the first is done in NumPy, independently of the kernels; how much the
second does is seen by computing the same in float64 and in float32. So this model predicts how far a backend is from
the reference; one that is farther has a fault (`ingle.evaluate.rounding` finds it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingle.backends.reference import ReferenceBackend, ReferenceState
from ingle.gguf import TensorType
from ingle.models.spec import KVType, Spec
from ingle.models.tensor import Tensor

__all__ = ["RoundedBackend", "Rounding", "rounded_bf16", "rounded_int8", "rounding_of"]

Floats: TypeAlias = NDArray[np.floating[Any]]
Rounding = Literal["none", "int8", "bf16", "bf16 pairs"]

_GROUP = 32  # columns that share the scale of an activation
_TINY = 1e-30  # groups whose largest value is below count as zero
_LOG2_E = 1.0 / math.log(2.0)

# Where matrix tiles are used (native/src: tiles_from, AttentionTile.many, kTileQueries), and how their attention sums.
_TILE_ROWS = 12  # rows from which on matrices are multiplied by tiles
_TILE_QUERIES, _MOST_QUERIES = 16, 256  # of one key/value head: from which on attention uses tiles; at most at a time
_PAGE = 64  # positions whose weights are rounded together
# 2^x for 0 <= x < 1 in attention by tiles: the cubic whose largest relative error is least, 7.5e-5 (found by Remez's
# exchange; weights are rounded to 8 bits afterwards, and their sum is of what the cubic gives).
_CUBIC = (0.07802452, 0.22606716, 0.69583354, 0.99992522)
_RISE = 8.0  # weights are 2^(score - base), and the base is renewed where a page has a score that is more above it


def rounding_of(type: TensorType, *, tiles: bool) -> Rounding:
    """What a matrix of this type rounds: nothing, or its input to int8; in tiles itself and its input, to bf16.

    Pairs: to sums of two bf16, whose product leaves out that of the lesser two: all but 2^-16.
    """
    if type.is_quantized:
        return "bf16" if tiles else "int8"
    return "bf16 pairs" if tiles and type is not TensorType.F32 else "none"


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
    """The four verbs of the reference, in `dtype`, with what kernels multiply rounded as they round it.

    Keys and values are rounded as the cache wants it, as in the reference. Matrices of experts are not rounded. All
    rows of a call must be of one slot.
    """

    name = "rounded"

    def __init__(self, spec: Spec, *, tiles: bool = False, dtype: type[np.floating[Any]] = np.float64) -> None:
        """tiles: whether there are matrix tiles (AMX). They multiply many rows at once, in bf16."""
        super().__init__(spec)
        self._tiles = tiles
        self._dtype = dtype
        self._n_queries: Iterator[int] = iter(())  # that each row of the call shares its keys with
        self._kv_type: KVType = "f32"

    def load_embedding(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {role: self._loaded(tensor) for role, tensor in tensors.items()}

    load_attention = load_feed_forward = load_embedding

    def _loaded(self, tensor: Tensor) -> Any:
        values = tensor.float32().astype(self._dtype)
        if values.ndim != 2:
            return values
        in_tiles = self._tiles and values.shape[1] % _GROUP == 0
        return _Matrix(values, *(rounding_of(tensor.type, tiles=tiles) for tiles in (False, in_tiles)))

    def attention(self, block: dict[str, Any], state: ReferenceState, pass_index: int) -> None:
        n, group = len(state.rows), self.spec.n_heads // self.spec.n_kv_heads
        most = max(1, _MOST_QUERIES // group)
        self._n_queries = iter([min(most, n - row // most * most) * group for row in range(n)])
        self._kv_type = state.cache.kv_type
        super().attention(block, state, pass_index)

    def _attend(self, q: Floats, keys: Floats, values: Floats, pass_index: int) -> Floats:
        if next(self._n_queries) < _TILE_QUERIES or not self._tiles or self._kv_type == "f32":
            return super()._attend(q, keys, values, pass_index)
        spec, group = self.spec, self.spec.n_heads // self.spec.n_kv_heads
        k, v = (rounded_bf16(np.repeat(one.astype(self._dtype), group, axis=1)) for one in (keys, values))
        # In units of ln 2, so that exp is a power of two.
        scores = np.einsum("hd,nhd->hn", rounded_bf16(q * self._dtype(spec.score_scale * _LOG2_E)), k)
        if spec.alibi_slopes:
            slopes = np.asarray(spec.alibi_slopes)[:, None] * _LOG2_E
            scores += (slopes * np.arange(1 - len(keys), 1)).astype(self._dtype)
        if spec.attention_softcap:
            cap = self._dtype(spec.attention_softcap * _LOG2_E)
            scores = cap * np.tanh(scores / cap)
        first = max(0, len(keys) - (spec.window_of(pass_index) or len(keys)))
        scores[:, :first] = -np.inf
        base = np.full((len(q), 1), -3e38, self._dtype)
        heads, total = np.zeros_like(q), np.zeros_like(base)
        for start in range(first // _PAGE * _PAGE, len(keys), _PAGE):
            page = scores[:, start : start + _PAGE]
            top = page.max(axis=1, keepdims=True)
            risen = np.where(top > base + self._dtype(_RISE), top, base)
            weights, shrink = _rough_exp2(page - risen), np.exp2(base - risen)
            total = total * shrink + weights.sum(axis=1, keepdims=True)
            heads = heads * shrink + np.einsum("hn,nhd->hd", rounded_bf16(weights), v[start : start + _PAGE])
            base = risen
        result: Floats = heads / total
        return result


def _rough_exp2(x: Floats) -> Floats:
    x = np.maximum(x, x.dtype.type(-100))  # nothing becomes denormal
    whole = np.floor(x)
    y: Floats = np.ldexp(np.polyval(np.asarray(_CUBIC, x.dtype), x - whole), whole.astype(np.int32))
    return y


class _Matrix:
    """A weight [n, k], to be written `x @ weight.T` or `weight[rows]` like any array. few, many: for so many rows."""

    __array_ufunc__ = None  # NumPy leaves x @ this to __rmatmul__

    def __init__(self, weight: Floats, few: Rounding, many: Rounding) -> None:
        self._weight = weight
        self._few, self._many = few, many
        self._upper = rounded_bf16(weight) if many.startswith("bf16") else weight
        self._lower = rounded_bf16(weight - self._upper) if many == "bf16 pairs" else None

    def __getitem__(self, rows: NDArray[np.int32]) -> Floats:
        return self._weight[rows]

    @property
    def T(self) -> _Matrix:
        return self

    def __rmatmul__(self, x: Floats) -> Floats:
        x = x.astype(self._weight.dtype, copy=False)
        rounding = self._many if len(x) >= _TILE_ROWS else self._few
        y: Floats
        if rounding in ("none", "int8"):
            y = (rounded_int8(x) if rounding == "int8" else x) @ self._weight.T
            return y
        upper = rounded_bf16(x)
        y = upper @ self._upper.T
        if self._lower is not None:
            y += rounded_bf16(x - upper) @ self._upper.T + upper @ self._lower.T
        return y
