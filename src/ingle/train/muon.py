"""Muon: momentum whose update for a matrix is orthogonalised (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

All singular values of an update become about 1, so rare directions move as far as common ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ingle.train.sharding import any_process, gather_rows, local, own_rows, share_work

__all__ = ["JORDAN", "Muon", "orthogonalise"]

#: Five times the quintic of Jordan et al.: singular values from 0.01 end between 0.68 and 1.14.
#: Four of Polar Express (Amsel et al., arXiv 2505.16932) cost a fifth less, but ended up to 0.02 nats higher.
JORDAN: tuple[tuple[float, float, float], ...] = ((3.4445, -4.7750, 2.0315),) * 5

_NUMBERS_AT_ONCE = 2**24  # of matrices in flight: bounds the memory beside weights, gradients and momentum


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Older versions of PyTorch that will do otherwise do not have this function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(capabilities.get("amx_bf16", False))


def orthogonalise(x: Tensor, polynomials: Sequence[tuple[float, float, float]] = JORDAN) -> Tensor:
    """U V^T of each matrix U S V^T in `x` [n, rows, columns], about: Newton-Schulz in the dtype of `x`.

    Each polynomial (a, b, c) maps the singular values s to a s + b s^3 + c s^5. A matrix of zeros stays zeros.
    """
    x = x / x.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7).to(x.dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the Gram matrix of the shorter side is the smaller one
    for a, b, c in polynomials:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Muon for matrices [rows, columns] of any shapes, plain or sharded by rows (FSDP2); equal shapes go together.

    `momentum` m: velocity v = m v + (1 - m) g and, Nesterov's way, the update is made from m v + (1 - m) g once more.
    The learning rate counts for a square matrix; others get `shape_factor` of it. Several processes share the work, and
    all get the same bits. Beside weights and gradients it keeps one float32 number per weight.
    `cautious`: weights decay only where the update moves them towards zero too (Chen et al., arXiv 2510.12402).
    """

    def __init__(
        self,
        matrices: dict[str, Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        cautious: bool = False,
        polynomials: Sequence[tuple[float, float, float]] = JORDAN,
    ) -> None:
        self.lr, self.momentum, self.weight_decay, self.cautious = lr, momentum, weight_decay, cautious
        self.polynomials = tuple(polynomials)
        self.matrices = matrices
        self.dtype = torch.float32
        if matrices:  # one dtype for all devices, for they exchange what each has computed
            device = next(iter(matrices.values())).device
            self.dtype = torch.float32 if any_process(not gains_by_bfloat16(device), device) else torch.bfloat16
        self.velocity = {name: torch.zeros_like(matrix) for name, matrix in matrices.items()}

    def _batches(self) -> Iterator[list[str]]:
        by_shape: dict[torch.Size, list[str]] = {}
        for name, matrix in self.matrices.items():
            by_shape.setdefault(matrix.shape, []).append(name)
        for shape, names in by_shape.items():
            n = max(1, _NUMBERS_AT_ONCE // shape.numel())
            yield from (names[i : i + n] for i in range(0, len(names), n))

    @torch.no_grad()
    def step(self, lr_factor: float = 1.0) -> None:
        """Moves every matrix along its gradient; one without a gradient counts as having zeros."""
        for names in self._batches():
            self._step_batch(names, self.lr * lr_factor)

    def _step_batch(self, names: list[str], lr: float) -> None:
        matrices = [self.matrices[name] for name in names]
        weights = [local(matrix) for matrix in matrices]
        velocities = [local(self.velocity[name]) for name in names]
        gradients = [
            torch.zeros_like(weight) if matrix.grad is None else local(matrix.grad)
            for matrix, weight in zip(matrices, weights, strict=True)
        ]
        torch._foreach_lerp_(velocities, gradients, 1 - self.momentum)
        updates = torch.stack(
            [g.lerp(v, self.momentum).to(self.dtype) for g, v in zip(gradients, velocities, strict=True)]
        )
        updates = gather_rows(updates, matrices[0])
        updates = share_work(lambda x: orthogonalise(x, self.polynomials), updates)
        updates = own_rows(updates, matrices[0])
        rows, columns = matrices[0].shape
        scale = lr * shape_factor(rows, columns)
        for weight, update in zip(weights, updates, strict=True):
            shrink(weight, update, lr * self.weight_decay, self.cautious)
            weight.sub_(update.to(weight.dtype), alpha=scale)


def shape_factor(rows: int, columns: int) -> float:
    """What the learning rate of a square matrix is multiplied by for one of [rows, columns] (Jordan et al.).

    The alternative, 0.2 sqrt(max(rows, columns)) (Liu et al., arXiv 2502.16982), gives updates the size of AdamW's; it
    was no better in our short runs, and makes the best learning rate depend on the width.
    """
    return math.sqrt(max(1.0, rows / columns))


def shrink(weight: Tensor, update: Tensor, share: float, cautious: bool) -> None:
    """Takes `share` of each number off `weight`; if `cautious`, only where subtracting `update` does so too."""
    if share and cautious:
        weight.sub_(weight * (weight * update >= 0), alpha=share)
    elif share:
        weight.mul_(1 - share)
