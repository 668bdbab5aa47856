"""Several devices as one: the same losses, whether one process trains or many, each with a part of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ingle.train.decoder import Decoder

__all__ = ["Devices", "Mode", "Parallel", "connected", "full_parameters", "load_full", "wrap"]

Mode = Literal["auto", "none", "ddp", "fsdp"]


@dataclass(frozen=True)
class Devices:
    """This process among those that train together.

    rank 0 to world - 1; local_rank counts the processes of this machine; backend is "gloo", "nccl", or None alone.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device
    backend: str | None

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks: rank 0."""
        return self.rank == 0

    def sum_over(self, x: Tensor) -> Tensor:
        """The sum of every device's `x` (same shape and dtype), in place, on every device."""
        raise NotImplementedError

    def any_over(self, flag: bool) -> bool:
        """Whether any device says yes: a signal that one process got is one that all act on, at the same step."""
        raise NotImplementedError


@contextmanager
def connected(device: str = "auto", timeout_s: float = 600.0) -> Iterator[Devices]:
    """The devices that torchrun started together (its RANK, WORLD_SIZE, LOCAL_RANK), or this one alone.

    device: "auto" is CUDA where there is one, else the CPU. Inside the `with`, what a lost, late or unlike process
    does to the others becomes a TrainingError in one sentence, after `timeout_s` at the latest.
    """
    raise NotImplementedError
    yield


class Parallel:
    """A decoder on this device and its copies or shards on the others.

        with parallel.accumulating(last=i == n - 1):
            (parallel(tokens, targets, documents) / n_targets).backward()

    The losses are sums, so gradients are summed over micro-batches and devices: divide by the number of targets of the
    whole step on all devices, not by the number of devices. Every device makes the same number of calls; one with too
    few rows calls with targets that are all IGNORED.
    """

    decoder: Decoder
    devices: Devices
    mode: Mode

    def __call__(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """`decoder(tokens, targets, documents)`: the SUM over this device's rows, float32 scalar."""
        raise NotImplementedError

    def call(self, function: Any, *args: Any) -> Tensor:
        """`function(decoder, *args)` with all weights at hand and gradients exchanged: other losses (distillation)."""
        raise NotImplementedError

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; gradients are complete after the `last` of a step."""
        raise NotImplementedError
        yield


def wrap(decoder: Decoder, devices: Devices, mode: Mode = "auto") -> Parallel:
    """`decoder`, already on `devices.device`, for training on all devices; all begin with rank 0's weights.

    "ddp": each holds everything; "fsdp": each holds a share of every weight (FSDP2); "auto" is "ddp", and one process
    alone always "none". Compile the decoder before, build the optimizer after.
    """
    raise NotImplementedError


def full_parameters(decoder: Decoder) -> dict[str, Tensor]:
    """Every parameter by name: whole, on the CPU of rank 0; {} elsewhere. Every device must call it."""
    raise NotImplementedError


def load_full(decoder: Decoder, tensors: Mapping[str, Tensor]) -> None:
    """Gives every device its part of `tensors`, of which only rank 0's count. Every device must call it.

    Raises TrainingError where names or shapes differ from the decoder's.
    """
