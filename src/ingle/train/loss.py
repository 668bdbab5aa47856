"""Cross-entropy without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IGNORED", "cross_entropy_sum"]

IGNORED = -100  # the target of a position that does not count

_ROWS = 1024  # positions whose logits exist at once


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are there: nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        matrix = weight.to(x.dtype)
        total = torch.zeros((), device=x.device)
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        for begin in range(0, len(x), _ROWS):
            rows = slice(begin, begin + _ROWS)
            loss, dlogits = _chunk(x[rows] @ matrix.T, targets[rows])
            total += loss
            dx[rows] = dlogits @ matrix
            dweight += dlogits.T @ x[rows]
        ctx.save_for_backward(dx, dweight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        dx, dweight = ctx.saved_tensors
        return dx * gradient, dweight * gradient, None


def _chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss summed over the chunk, and its gradient by the logits [n, V]."""
    z = logits.float()
    log_sum = z.logsumexp(-1, keepdim=True)
    counts = (targets != IGNORED)[:, None]
    target = targets.clamp(min=0)[:, None]
    loss = ((log_sum - z.gather(1, target)) * counts).sum()
    gradient = (z - log_sum).exp().scatter_add(1, target, torch.full_like(target, -1, dtype=z.dtype)) * counts
    return loss, gradient.to(logits.dtype)


def cross_entropy_sum(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies in nats, float32 scalar.

    `x` [N, E], `weight` [V, E], `targets` [N] token ids or IGNORED. Gradients are exact up to the rounding of `x`'s
    dtype; without gradients only the loss is computed.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        total: Tensor = _CrossEntropy.apply(x, weight, targets)  # type: ignore[no-untyped-call]
        return total
    total, matrix = torch.zeros((), device=x.device), weight.to(x.dtype)
    for begin in range(0, len(x), _ROWS):
        rows = slice(begin, begin + _ROWS)
        logits = (x[rows] @ matrix.T).float()
        total += F.cross_entropy(logits, targets[rows], ignore_index=IGNORED, reduction="sum")
    return total
