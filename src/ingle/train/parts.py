"""What a run is put together from besides the decoder: a model to start from, a teacher, and the machine's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ingle.train.config import Config
from ingle.train.shape import Shape

__all__ = ["build_distiller", "describe_device", "load_start", "memory_bytes"]


def load_start(config: Config) -> tuple[Shape, dict[str, Tensor]] | None:
    """Shape and weights of [model] from; None without one. Raises the errors of `load_model`."""
    if config.start is None:
        return None
    from ingle.train.load import load_model

    model = load_model(Path(config.start))
    return model.shape, model.tensors


def build_distiller(config: Config, vocabulary: Any, device: torch.device) -> Any:
    """The `Distiller` of [distill]; None without one. Raises UsageError where the teacher has other tokens."""
    if config.distill is None:
        return None
    from ingle.train.compress.distill import Distiller, load_teacher

    wanted = config.distill
    return Distiller(load_teacher(Path(wanted.teacher), vocabulary, device), wanted.weight, wanted.temperature)


def describe_device(device: torch.device) -> str:
    """Its name, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_bytes(device: torch.device) -> int:
    """Of the GPU what was reserved at most, else the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    import psutil

    return int(psutil.Process().memory_info().rss)
