"""A linear layer that can pretend to be quantised: the one place where quantisation enters the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FakeQuant", "Linear", "together"]


class FakeQuant(Protocol):
    """Rounds to what a quantised model would compute with, and lets gradients pass."""

    def weight(self, weight: Tensor) -> Tensor:
        """[out, in] float -> the same shape: what the stored weight stands for."""

    def activation(self, x: Tensor) -> Tensor:
        """[..., in] float -> the same shape: what the rounded input stands for."""


class Linear(nn.Linear):
    """`nn.Linear` without a bias; with `fake_quant` set, it computes as if quantised."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)
        self.fake_quant: FakeQuant | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.fake_quant is None:
            return F.linear(x, self.weight)
        return F.linear(self.fake_quant.activation(x), self.fake_quant.weight(self.weight))


def together(x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
    """What each of `layers` makes of `x`.

    Compiled, plain layers become one product: fewer and larger ones are faster, and joining their weights costs
    nothing beside casting them. Eagerly it would be one more copy.
    """
    plain = [layer for layer in layers if type(layer) is Linear and layer.fake_quant is None]
    if len(plain) < len(layers) or not torch.compiler.is_compiling():
        return [layer(x) for layer in layers]
    joined = F.linear(x, torch.cat([layer.weight for layer in plain]))
    parts: Sequence[Tensor] = torch.split(joined, [layer.out_features for layer in plain], -1)
    return parts
