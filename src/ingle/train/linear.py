"""A linear layer that can pretend to be quantised: the one place where quantisation enters the decoder."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FakeQuant", "Linear"]


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
