"""4-bit weights in GGUF's blocks, three ways.

* rtn: round to nearest, what `ingle convert` and other programs do.
* hqq: Half-Quadratic Quantization (Badri and Shaji, https://mobiusml.github.io/hqq_blog), which needs no text:
  torchao's, its scale-only form for Q4_0 and the affine one for Q4_1.
* gptq: calibration with text; see `gptq`.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from ingle.errors import UsageError
from ingle.train.compress.blocks import BLOCK, Fitted, Grid

__all__ = ["METHODS", "Method", "hqq", "torchao"]

Method = Literal["rtn", "hqq", "gptq"]
METHODS: tuple[Method, ...] = get_args(Method)


@torch.no_grad()
def hqq(weight: Tensor, grid: Grid) -> Fitted:
    """`weight` [out, in] on the 4-bit `grid`, blocks [out, in / 32, 32]; the scales are torchao's, in float16."""
    torchao()
    device, weight = weight.device, weight.detach().float().cpu()
    blocks = weight.view(len(weight), -1, BLOCK)
    if grid.has_minimum:
        from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq

        _, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
            weight, 4, BLOCK, compute_dtype=torch.float32, device="cpu", raw_output=True
        )
        scale, zero = scale[..., None], zero[..., None]
        return grid.nearest(blocks.to(device), scale.to(device), (-zero * scale).to(device))
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    # The grid has one step more below zero, so each block is turned to have its largest weight there.
    sign = -blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).sign()
    found = IntxUnpackedToInt8Tensor.from_hp(
        (blocks * sign).flatten(1),
        (1, BLOCK),
        torch.int4,  # type: ignore[attr-defined]
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY,
    )
    return grid.nearest(blocks.to(device), (found.scale[..., None] * sign).to(device), None)


def torchao() -> ModuleType:
    """The package, without what it says while it is imported. Raises UsageError where it is not installed.

    It complains about its GPU libraries where there is no GPU, and PyTorch about how it registers constants.
    """
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        import torchao
        import torchao.quantization
    except ImportError:
        raise UsageError("HQQ needs the package torchao; install it, or choose --method gptq or rtn.") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    package: ModuleType = torchao
    return package
