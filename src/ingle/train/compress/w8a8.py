"""W8A8 as integer arithmetic: what `schemes.W8A8` pretends, computed with 8-bit products and 32-bit sums.

An input token is x = s (a - z) with int8 a, a weight row is w = t b with int8 b. Their product is
s t (a . b - z sum(b)): one product of int8 matrices, and the sum of each weight row, which is known beforehand. All
integers stay far below 2^31 (127 * 128 * 2^16 inputs), so nothing but the last multiplication rounds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ingle.train.compress.schemes import apply_scheme, quantize_activation, quantize_channels
from ingle.train.decoder import Decoder
from ingle.train.linear import Linear

__all__ = ["Int8Matrix", "int8_linear", "run_in_int8", "to_int8"]

_MAX_INPUTS = 2**16


class Int8Matrix(NamedTuple):
    """int8 integers [out, in], float32 scales [out], int32 sums of the integers of each row [out]."""

    integers: Tensor
    scale: Tensor
    sums: Tensor


def to_int8(weight: Tensor) -> Int8Matrix:
    """Quantise `weight` [out, in], with at most 2^16 inputs, by output channel."""
    assert weight.shape[1] <= _MAX_INPUTS
    integers, scale = quantize_channels(weight.detach())
    small = integers.to(torch.int8)
    return Int8Matrix(small, scale[:, 0], small.sum(1, dtype=torch.int32))


def int8_linear(x: Tensor, matrix: Int8Matrix) -> Tensor:
    """`x` [..., in] float -> [..., out] float32, with the inputs quantised by token."""
    integers, scale, zero = quantize_activation(x.flatten(0, -2))
    products = torch._int_mm(integers.to(torch.int8), matrix.integers.T)
    exact = products - zero.to(torch.int32) * matrix.sums
    return (exact * scale * matrix.scale).view(*x.shape[:-1], -1)


class _Int8(Linear):
    """A linear layer that multiplies integers."""

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.weight, self.fake_quant = linear.weight, linear.fake_quant
        self.matrix = to_int8(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.matrix)


def run_in_int8(decoder: Decoder) -> None:
    """Make the layers of `decoder` multiply integers, in place and for good; the head pretends (`schemes.W8A8`)."""
    apply_scheme(decoder, "w8a8")
    for layer in decoder.blk:
        for name, module in list(layer.named_children()):
            if isinstance(module, Linear):
                setattr(layer, name, _Int8(module))
