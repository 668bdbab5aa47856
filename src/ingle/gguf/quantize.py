"""From float32 to the bytes of a tensor.

The types with one scale per block (and the plain floats) are quantised by the `gguf` package; the K-quants and IQ4_NL,
whose scales need a search, by the native core (native/src/quantize_fit.h says how).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ingle.errors import BackendError, UnsupportedError, UsageError
from ingle.gguf.types import TensorType

__all__ = ["QUANTIZABLE_TYPES", "quantize"]

_NATIVE = frozenset(
    (TensorType.Q2_K, TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K, TensorType.IQ4_NL)
)

#: The types that `quantize` writes.
QUANTIZABLE_TYPES = frozenset(TensorType) - {TensorType.MXFP4}

#: The largest weight of the types whose range is not that of float32; a scale is a float16 as well.
_LARGEST = dict.fromkeys(TensorType, 65504.0) | {TensorType.F32: np.inf, TensorType.BF16: 2.0**128 - 2.0**120}


def quantize(x: npt.NDArray[np.float32], type: TensorType, threads: int | None = None) -> npt.NDArray[np.uint8]:
    """The rows of x, float32[n, k], in `type`: uint8[n, bytes of a row].

    Rows are independent, so a large tensor may be given in slabs. `threads` is for the K-quants (default: one per
    processor). Raises UsageError when k is not whole blocks or a weight is infinite, not a number or out of the type's
    range, and BackendError when a K-quant is wanted without the native core.
    """
    if x.ndim != 2 or x.dtype != np.float32:
        raise UsageError(f"rows to quantise are float32 with two dimensions, not {x.dtype} with {x.ndim}: convert them")
    if type not in QUANTIZABLE_TYPES:
        raise UnsupportedError(f"Ingle reads {type.name} but does not write it: choose another type, such as q4_k")
    row_bytes = type.row_bytes(x.shape[1])
    _check_range(x, type)
    x = np.ascontiguousarray(x)
    if type in _NATIVE:
        out = np.empty((len(x), row_bytes), np.uint8)
        _native_core().quantize_rows(type.id, x, out, threads or os.cpu_count() or 1)
        return out
    if type is TensorType.F32:
        return x.copy().view(np.uint8)
    import gguf

    if not x.size:
        return np.empty((len(x), row_bytes), np.uint8)
    with np.errstate(all="ignore"):  # 1 / scale overflows where all weights of a block are below 1e-38
        packed: npt.NDArray[np.uint8] = gguf.quants.quantize(x, gguf.GGMLQuantizationType(type.id)).view(np.uint8)
    return packed


def _check_range(x: npt.NDArray[np.float32], type: TensorType) -> None:
    """Refuse what would become a non-finite (or silently clipped) weight."""
    largest = float(np.abs(x).max(initial=0.0))  # a NaN propagates
    if not np.isfinite(largest):
        raise UsageError(f"the weights hold infinite values or NaN, which {type.name} cannot: check the original model")
    if largest > _LARGEST[type]:
        raise UsageError(
            f"the largest weight is {largest:g}, and {type.name} reaches {_LARGEST[type]:g}: keep this "
            "tensor in a type of wider range, such as f32"
        )


def _native_core() -> Any:
    try:
        from ingle import _core
    except ImportError as error:
        raise BackendError(
            f"quantising to K-quants and IQ4_NL needs the native core, which did not load ({error}): install "
            "Ingle again"
        ) from None
    return _core
