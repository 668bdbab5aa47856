"""GPTQ (Frantar et al., arXiv 2210.17323) on the grids of GGUF.

Columns are rounded one by one, and each error is made up for by the columns that are not rounded yet, as the second
moments H = sum x x^T of the layer's inputs say: the outputs change least, not the weights.

torchao's GPTQ (0.18) is not used: it runs on CUDA alone ("GPTQ only supports CUDA currently"), and its int4 rounds to
a packing of the library mslk, whose grid is not Q4_0's or Q4_1's.

Two things are as in later implementations: columns with large inputs go first, and each block's scale is chosen before,
by search, for the least error weighted by the diagonal of H. So a scale stays with its block of neighbouring columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ingle.errors import TrainingError
from ingle.gguf import TensorType
from ingle.train.compress.blocks import BLOCK, Fitted, Grid

__all__ = ["gptq", "round_columns", "search_scales"]

_COLUMNS = 128  # whose errors are passed on at once
_REFINEMENTS = 3
_FACTORS = [1 - 0.02 * i for i in range(-3, 17)]  # of the scale that reaches a block's largest weight


def gptq(weight: Tensor, moments: Tensor, grid: Grid, damping: float = 0.01) -> Fitted:
    """`weight` [out, in] on `grid`, for inputs with `moments` [in, in]; blocks [out, in / 32, 32] come back.

    `damping`: what is added to the diagonal of the moments, as a share of its mean. Raises TrainingError when the
    moments are not those of finite inputs.
    """
    blocks = weight.float().view(len(weight), -1, BLOCK)
    importance = moments.diagonal().view(-1, BLOCK)
    scale, minimum = search_scales(blocks, importance, grid)

    def rounded(column: Tensor, index: int) -> Tensor:
        block = slice(index // BLOCK, index // BLOCK + 1)
        lowest = None if minimum is None else minimum[:, block, 0]
        return grid.nearest(column[:, None], scale[:, block, 0], lowest).weights[:, 0]

    order = moments.diagonal().argsort(descending=True)
    weights = round_columns(weight, moments, rounded, order, damping)
    return grid.nearest(weights.view_as(blocks), scale, minimum)


def search_scales(blocks: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """Scale and minimum [out, n, 1] of each of `blocks` [out, n, 32] with the least squared error, each weight's error
    weighted by `importance` [n, 32]: the best of some shares of the full range, then least squares for its integers."""
    extent, lowest = grid.extent(blocks)
    best = _Best(blocks, importance, grid)
    signs = (1.0, -1.0) if grid.type is TensorType.Q4_0 else (1.0,)
    for factor in (sign * factor for sign in signs for factor in _FACTORS):
        scale = extent * factor
        best.offer(scale, None if lowest is None else lowest + (extent - scale) * (grid.high / 2))
    for _ in range(_REFINEMENTS):
        best.offer(*_least_squares(blocks, importance, grid, best.scale, best.minimum))
    return best.scale, best.minimum


class _Best:
    """The scales with the least error of those that were offered, block by block."""

    def __init__(self, blocks: Tensor, importance: Tensor, grid: Grid) -> None:
        self._blocks, self._importance, self._grid = blocks, importance, grid
        self.scale, self.minimum = grid.extent(blocks)
        self._error = torch.full_like(self.scale, torch.inf)

    def offer(self, scale: Tensor, minimum: Tensor | None) -> None:
        difference = self._grid.nearest(self._blocks, scale, minimum).weights.sub_(self._blocks)
        error = difference.square_().mul_(self._importance).sum(-1, keepdim=True)
        better = error < self._error
        self._error = torch.where(better, error, self._error)
        self.scale = torch.where(better, scale, self.scale)
        if minimum is not None and self.minimum is not None:
            self.minimum = torch.where(better, minimum, self.minimum)


def _least_squares(
    blocks: Tensor, importance: Tensor, grid: Grid, scale: Tensor, minimum: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The scale, and minimum, that fit `blocks` best with the integers that these have."""
    q = grid.nearest(blocks, scale, minimum).integers
    share = importance / importance.sum(-1, keepdim=True).clamp(min=1e-30)
    if minimum is None:
        return (share * q * blocks).sum(-1, True) / (share * q * q).sum(-1, True).clamp(min=1e-30), None
    mean_q, mean = (share * q).sum(-1, True), (share * blocks).sum(-1, True)
    variance = (share * (q - mean_q).square()).sum(-1, True)
    covariance = (share * (q - mean_q) * (blocks - mean)).sum(-1, True)
    fitted = torch.where(variance > 1e-12, covariance / variance.clamp(min=1e-12), scale)
    return fitted, mean - fitted * mean_q


def round_columns(
    weight: Tensor, moments: Tensor, rounded: Callable[[Tensor, int], Tensor], order: Tensor, damping: float = 0.01
) -> Tensor:
    """`weight` [out, in] with every column rounded by `rounded(column [out], index)`, in `order` [in]."""
    moments, weight = moments.float().clone(), weight.float().clone()
    unused = moments.diagonal() == 0  # an input that never is anything but 0: its column can't matter
    moments.diagonal().add_(unused).add_(damping * moments.diagonal().mean())
    moments, weight = moments[order][:, order], weight[:, order]
    inverse, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(torch.linalg.cholesky_ex(moments)[0]), upper=True)
    if failed or not inverse.isfinite().all():
        raise TrainingError(
            "The calibration inputs give no usable second moments; calibrate with more text, or check that the model's "
            "loss is finite."
        )
    columns = order.tolist()
    for begin in range(0, len(columns), _COLUMNS):
        end = min(begin + _COLUMNS, len(columns))
        errors = torch.empty_like(weight[:, begin:end])
        for at in range(begin, end):
            value = rounded(weight[:, at], columns[at])
            error = (weight[:, at] - value) / inverse[at, at]
            weight[:, at] = value
            weight[:, at + 1 : end] -= error[:, None] * inverse[at, at + 1 : end]
            errors[:, at - begin] = error
        weight[:, end:] -= errors @ inverse[begin:end, end:]
    return torch.empty_like(weight).index_copy_(1, order, weight)
