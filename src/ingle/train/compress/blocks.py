"""GGUF's blocks of 32 weights in PyTorch: Q8_0, Q4_0 and Q4_1, bit for bit.

A block is integers with a float16 scale and, in Q4_1, a float16 minimum: weight = scale * integer + minimum. Functions
here work on blocks [..., 32] of float32; the integers are kept as floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ingle.gguf import TensorType

__all__ = ["BLOCK", "GRIDS", "Fitted", "Grid", "half", "pack"]

BLOCK = 32


class Fitted(NamedTuple):
    """Blocks [n, ..., 32] on a grid: integers [..., 32], and scale and minimum [..., 1], exactly float16."""

    integers: Tensor
    scale: Tensor
    minimum: Tensor | None

    @property
    def weights(self) -> Tensor:
        """What the integers stand for, float32, as `ingle.gguf.dequantize` computes it."""
        scaled = self.scale * self.integers
        return scaled if self.minimum is None else scaled + self.minimum


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers of a type, from `low` to `high`, and how it chooses a block's scale."""

    type: TensorType
    low: int
    high: int

    @property
    def has_minimum(self) -> bool:
        return self.type is TensorType.Q4_1

    def extent(self, blocks: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and minimum [..., 1] of each block by its largest weights, float32, as ggml has them."""
        if self.type is TensorType.Q4_1:
            low, high = blocks.aminmax(dim=-1, keepdim=True)
            return (high - low) / 15, low
        at = blocks.abs().argmax(-1, keepdim=True)
        if self.type is TensorType.Q4_0:  # the largest weight becomes -8, whatever its sign
            return blocks.gather(-1, at) / -8, None
        return blocks.gather(-1, at).abs() / 127, None

    def nearest(self, blocks: Tensor, scale: Tensor, minimum: Tensor | None) -> Fitted:
        """The nearest point of the grid that these scales span, once they are rounded to float16."""
        scale, minimum = half(scale), None if minimum is None else half(minimum)
        z = (blocks if minimum is None else blocks - minimum) * reciprocal(scale)
        return Fitted(z.round().clamp(self.low, self.high), scale, minimum)

    def round_to_nearest(self, blocks: Tensor) -> Fitted:
        """Exactly what `ingle.gguf.quantize` does: rounding sees the scale before it is a float16."""
        scale, minimum = self.extent(blocks)
        z = (blocks if minimum is None else blocks - minimum) * reciprocal(scale)
        if self.type is TensorType.Q8_0:  # halves away from zero
            integers = z.sign() * (z.abs().floor() + (2 * (z.abs() - z.abs().floor())).floor())
        else:
            integers = (z - self.low + 0.5).trunc() + self.low
        integers = integers.clamp(self.low, self.high)
        return Fitted(integers, half(scale), None if minimum is None else half(minimum))


#: The types that a scheme may choose for the weights of a layer.
GRIDS = {
    TensorType.Q8_0: Grid(TensorType.Q8_0, -127, 127),
    TensorType.Q4_0: Grid(TensorType.Q4_0, -8, 7),
    TensorType.Q4_1: Grid(TensorType.Q4_1, 0, 15),
}


def half(x: Tensor) -> Tensor:
    """Float32 `x` within a float16's range, rounded to what a float16 can hold, as float32.

    With the bits, because torch.compile leaves out a cast to float16 and back and with it the rounding.
    """
    bits = x.view(torch.int32)
    # 10 bits after the point, ties to even.
    normal = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    subnormal = (x + 0.75) - 0.75  # floats from 0.5 to 1 are 2^-24 apart, as the smallest float16s are
    return torch.where(x.abs() < 2.0**-14, subnormal, normal)


def reciprocal(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale is 0 (a block of zeros) or too small to have one."""
    return torch.where(scale.abs() < 1e-38, 0.0, 1 / scale)


def pack(fitted: Fitted, type: TensorType) -> npt.NDArray[np.uint8]:
    """The bytes of the rows in a GGUF file, uint8[rows, bytes of a row], of blocks [rows, blocks, 32]."""
    rows = len(fitted.integers)
    parts = [_bytes_of(fitted.scale)]
    if fitted.minimum is not None:
        parts.append(_bytes_of(fitted.minimum))
    integers = fitted.integers.cpu().numpy()
    if type is TensorType.Q8_0:
        parts.append(integers.astype(np.int8).view(np.uint8))
    else:
        nibbles = (integers - GRIDS[type].low).astype(np.uint8)
        parts.append(nibbles[..., :16] | nibbles[..., 16:] << np.uint8(4))
    return np.concatenate(parts, -1).reshape(rows, -1)


def _bytes_of(scale: Tensor) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(scale.half().cpu().numpy()).view(np.uint8)
