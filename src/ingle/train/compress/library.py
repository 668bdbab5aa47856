"""torchao, without what it says while it is imported."""

from __future__ import annotations

import logging
from types import ModuleType

from ingle.errors import UsageError

__all__ = ["torchao"]


def torchao() -> ModuleType:
    """The package. Raises UsageError where it is not installed.

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
