"""Cross-entropy without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ingle.train.data.batches import IGNORED

__all__ = ["IGNORED", "Softmax", "cross_entropy_sum", "softmax"]

Softmax = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def softmax(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `logits` [n, V] and `targets` [n]: the summed loss; its gradient by the logits [n, V], right but for those of
    the targets; and these [n].

    Rows whose target is IGNORED count nothing. This is what the loss takes its time for, and what `Decoder.compile`
    compiles: one exponential for each logit, kept in the logits' dtype, for the time is that of reading and writing.
    """
    z = logits.float()
    counts = (targets != IGNORED).float()[:, None]
    at_target = z.gather(1, targets.clamp(min=0)[:, None])
    highest = z.amax(-1, keepdim=True)
    e = (z - highest).exp().to(logits.dtype)
    total = e.float().sum(-1, keepdim=True)
    loss = ((total.log() + highest - at_target) * counts).sum()
    gradient = (e.float() * (counts / total)).to(logits.dtype)
    # float32 until here: rounding a probability near 1 before 1 is taken away would leave nothing right.
    at_target = ((at_target - highest).exp() / total - 1) * counts
    return loss, gradient, at_target[:, 0].to(logits.dtype)


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are there: nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, softmax: Softmax) -> Tensor:
        matrix = weight.to(x.dtype)
        total = torch.zeros((), device=x.device)
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        for rows in _chunks(x, weight):
            loss, dlogits, dtarget = softmax(x[rows] @ matrix.T, targets[rows])
            dlogits[torch.arange(len(dlogits), device=x.device), targets[rows].clamp(min=0)] = dtarget
            total += loss
            torch.mm(dlogits, matrix, out=dx[rows])
            dweight += dlogits.T @ x[rows]
        ctx.save_for_backward(dx, dweight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dx, dweight = ctx.saved_tensors
        return dx.mul_(gradient), dweight.mul_(gradient), None, None  # a second backward pass finds them changed: error


def _chunks(x: Tensor, weight: Tensor) -> list[slice]:
    """Positions whose logits exist at once: few, for memory; many, for each chunk adds to the gradient of `weight`."""
    size = 8192 if x.is_cuda else max(1024, 2**24 // len(weight))
    return [slice(begin, begin + size) for begin in range(0, len(x), size)]


def cross_entropy_sum(x: Tensor, weight: Tensor, targets: Tensor, softmax: Softmax = softmax) -> Tensor:
    """Sum of the cross-entropies in nats, float32 scalar.

    `x` [N, E], `weight` [V, E], `targets` [N] token ids or IGNORED. Gradients are exact up to the rounding of `x`'s
    dtype, and can be asked for once; without gradients only the loss is computed. `softmax` is the function here,
    compiled or not.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        loss: Tensor = _CrossEntropy.apply(x, weight, targets, softmax)  # type: ignore[no-untyped-call]
        return loss
    total, matrix = torch.zeros((), device=x.device), weight.to(x.dtype)
    for rows in _chunks(x, weight):
        logits = (x[rows] @ matrix.T).float()
        total += F.cross_entropy(logits, targets[rows], ignore_index=IGNORED, reduction="sum")
    return total
