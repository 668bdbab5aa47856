"""What a config leaves open, decided for this machine: precision, compiling, micro-batches, threads; and its memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ingle.errors import UsageError
from ingle.train.compiling import compiler
from ingle.train.config import Budget, Config
from ingle.train.peak import multiplies_bfloat16
from ingle.train.recipes import Recipe
from ingle.train.shape import Shape
from ingle.train.sharding import least_of_all

__all__ = ["Setup", "decide", "describe_device", "memory_bytes", "set_threads", "state_bytes"]

_CPU_MICRO_TOKENS = 4096
_GPU_MICRO_TOKENS = 65536
_WORTH_COMPILING_S = 240.0  # compiling takes 20 to 40 seconds
_CPU_FLOPS = 2e11  # of an unknown processor, to guess how long a run takes; only `compile = "auto"` asks


@dataclass(frozen=True)
class Setup:
    """bf16: compute in bfloat16 under autocast. rows: of a step, on all devices; micro_rows: on a device at once."""

    bf16: bool
    compile: bool
    positions: int
    rows: int
    micro_rows: int

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


def decide(config: Config, shape: Shape, device: torch.device, world: int, say: Callable[[str], None]) -> Setup:
    """Raises UsageError where the sizes do not fit together."""
    positions = config.data.positions or shape.context
    if positions > shape.context:
        raise UsageError(
            f"data.positions is {positions}, but the model's context is {shape.context}; make positions smaller, or "
            "model.context larger."
        )
    batch, micro = config.training.batch_tokens, config.training.micro_tokens
    if batch % (positions * world):
        n = max(1, round(batch / (positions * world))) * positions * world
        per = f"rows of {positions} positions" + (f" on {world} devices" if world > 1 else "")
        raise UsageError(f"train.batch_tokens is {batch}, which is no whole number of {per}; {n} would be.")
    rows = batch // positions // world
    if micro and micro < positions:
        raise UsageError(f"train.micro_tokens is {micro}, less than one row of {positions} positions.")
    if not micro:
        # FSDP exchanges weights in every micro-batch: unlike GPUs must make equally many.
        micro = least_of_all(_gpu_micro_tokens(shape, device) if device.type == "cuda" else _CPU_MICRO_TOKENS, device)
    micro_rows = min(rows, max(1, micro // positions))
    while rows % micro_rows:  # micro-batches of one size: a compiled decoder is compiled once
        micro_rows -= 1
    return Setup(
        _bf16(config.training.precision, device, say),
        _compile(config, shape, positions, device),
        positions,
        rows * world,
        micro_rows,
    )


def set_threads(wanted: int) -> int:
    """Let PyTorch use `wanted` threads; 0 is as many as OMP_NUM_THREADS says, or processors there are."""
    if not wanted and not os.environ.get("OMP_NUM_THREADS"):
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wanted = max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if wanted:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def state_bytes(shape: Shape, recipe: Recipe) -> int:
    """Memory of weights, gradients and the optimizer's state, all float32; activations come on top."""
    matrices = shape.n_matrix_parameters if recipe.optimizer == "muon" else 0
    return 4 * (4 * shape.n_parameters - matrices)


def memory_bytes(device: torch.device) -> int:
    """Of the GPU what was reserved at most, else the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def describe_device(device: torch.device) -> str:
    """Its name, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _bf16(wanted: str, device: torch.device, say: Callable[[str], None]) -> bool:
    fast = multiplies_bfloat16(device)
    if wanted == "bf16" and not fast:
        say(f'This {device.type} has no bfloat16 arithmetic: precision = "bf16" will be slow; "f32" is faster.')
    return wanted == "bf16" or (wanted == "auto" and fast)


def _compile(config: Config, shape: Shape, positions: int, device: torch.device) -> bool:
    wanted = config.training.compile
    if isinstance(wanted, bool):
        if wanted and device.type == "cpu" and compiler() is None:
            raise UsageError('train.compile is true, but there is no C++ compiler; install g++ or set it to "auto".')
        return wanted
    if device.type == "mps" or (device.type == "cpu" and compiler() is None):
        return False
    flops = _CPU_FLOPS if device.type == "cpu" else 1e14
    return _seconds(config.budget, config.training.batch_tokens, shape.flops_per_token(positions) / flops) > (
        _WORTH_COMPILING_S
    )


def _seconds(budget: Budget, batch_tokens: int, per_token_s: float) -> float:
    """About how long a run takes; epochs count as long, for their size is not known here."""
    if budget.kind == "minutes":
        return budget.amount * 60
    if budget.kind == "epochs":
        return float("inf")
    return budget.amount * (batch_tokens if budget.kind == "steps" else 1) * per_token_s


def _gpu_micro_tokens(shape: Shape, device: torch.device) -> int:
    """As many positions as fit about half of the free memory, a power of two."""
    free, _ = torch.cuda.mem_get_info(device)
    heads = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    saved = 10 * shape.width + 3 * heads + 4 * shape.hidden  # numbers kept for the backward pass, 2 to 4 bytes each
    fits = (free / 2 - state_bytes(shape, Recipe())) / (3 * saved * len(shape.schedule))
    tokens = _CPU_MICRO_TOKENS
    while tokens * 2 <= min(fits, _GPU_MICRO_TOKENS):
        tokens *= 2
    return tokens
