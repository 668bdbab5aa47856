"""Several devices as one: the same losses, whether one process trains or many, each with a part of the batch."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ingle.errors import TrainingError, UsageError
from ingle.train.decoder import Decoder
from ingle.train.sharding import any_process, broadcast_parameters, full_parameters, load_full

__all__ = ["Devices", "Mode", "Parallel", "connected", "full_parameters", "load_full", "pick_device", "wrap"]

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
        """The sum of every device's `x` (same shape and dtype, on `device`), in place, on every device."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def any_over(self, flag: bool) -> bool:
        """Whether any device says yes: a signal that one process got is one that all act on, at the same step."""
        return any_process(flag, self.device)

    def wait(self) -> None:
        """Goes on when every device has come here."""
        self.any_over(False)


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device called `name` for the process `local_rank` of this machine.

    "cpu", "cuda", "mps", or "auto": CUDA where there is one, else the CPU.
    Raises UsageError where this machine has no such device, or fewer of them than processes.
    """
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise UsageError(f"There is no device {name!r}; expected auto, cpu, cuda or mps.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("This machine or this build of PyTorch has no Metal (mps); choose device auto or cpu.")
    if name in ("cpu", "mps") or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu" if name == "auto" else name)
    if not torch.cuda.is_available():
        raise UsageError("This machine or this build of PyTorch has no CUDA; choose device auto or cpu.")
    if local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"torchrun started process {local_rank + 1} on a machine with {torch.cuda.device_count()} GPUs; start as "
            "many processes as there are GPUs (--nproc-per-node)."
        )
    return torch.device("cuda", local_rank)


@contextmanager
def connected(device: str = "auto", timeout_s: float = 600.0) -> Iterator[Devices]:
    """The devices that torchrun started together (its RANK, WORLD_SIZE, LOCAL_RANK), or this one alone.

    device: as in `pick_device`. Inside the `with`, what a lost, late or unlike process does to the others becomes a
    TrainingError in one sentence, after `timeout_s` at the latest (NCCL's watchdog ends the process without ours).
    """
    if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
        yield Devices(0, 1, 0, _use(pick_device(device)), None)
        return
    world, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    local_rank = _number("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else rank
    if rank >= world:
        raise TrainingError(f"RANK is {rank} of WORLD_SIZE {world}, which counts from 0; start all with torchrun.")
    chosen = _use(pick_device(device, local_rank))
    if chosen.type == "mps" and world > 1:
        raise UsageError("PyTorch cannot join several Metal (mps) devices; choose device cpu, or train on one.")
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    _meet(backend, rank, world, timeout_s)
    clean = False
    try:
        yield Devices(rank, world, local_rank, chosen, backend)
        clean = True
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise TrainingError(
            f"Process {rank} of {world} lost the others: one ended, or did not answer for {timeout_s:.0f} s; the "
            f"message of the one that ended first says why ({_first_line(error)})."
        ) from error
    finally:
        if clean or backend == "gloo":  # NCCL may wait here for ever for what a lost process owes it
            dist.destroy_process_group()


def _meet(backend: str, rank: int, world: int, timeout_s: float) -> None:
    """Joins the process group, and makes sure that everyone counts the same number of processes."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1"):  # then do not listen to the network
        for _, name in socket.if_nameindex():
            if name in ("lo", "lo0"):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    timeout = timedelta(seconds=timeout_s)
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timeout))
        store.set_timeout(timeout)
        store.set(f"ingle/world/{rank}", str(world))
        for other in range(world):
            if (count := int(store.get(f"ingle/world/{other}"))) != world:
                raise TrainingError(
                    f"Process {rank} was told of {world} processes and process {other} of {count}; start all of them "
                    "with the same --nnodes and --nproc-per-node."
                )
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise TrainingError(
                f"The address {where}, where the processes were to meet, is in use; choose another --master-port, or "
                "--standalone on one machine."
            ) from error
        raise TrainingError(
            f"Process {rank} waited up to {timeout_s:.0f} s at {where} for all {world} processes and did not meet "
            f"them; start all of them, with the same --master-addr and --master-port ({_first_line(error)})."
        ) from error


def _use(device: torch.device) -> torch.device:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _number(name: str, least: int) -> int:
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise TrainingError(f"The environment says {name}={text!r}; expected a number; start all with torchrun.")
    return int(text)


def _is_lost_peer(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200]


class _Entry(nn.Module):
    """One way into the decoder for every loss, so that what DDP and FSDP do at a forward pass happens for each."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        return function(self.decoder, *args)


class Parallel:
    """A decoder on this device, with its copies or shards on the others.

        with parallel.accumulating(last=i == n - 1):
            (parallel(tokens, targets, documents) / n_targets).backward()

    The losses are sums, so gradients are summed over micro-batches and devices: divide by the number of targets of the
    whole step on all devices, not by the number of devices. Every device makes the same number of calls; one with too
    few rows calls with targets that are all IGNORED.
    """

    def __init__(self, decoder: Decoder, entry: nn.Module, devices: Devices, mode: Mode) -> None:
        self.decoder, self.devices, self.mode = decoder, devices, mode
        self._entry = entry

    def __call__(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """`decoder(tokens, targets, documents)`: the SUM over this device's rows, float32 scalar."""
        return self.call(Decoder.__call__, tokens, targets, documents)

    def call(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """`function(decoder, *args)` with all weights at hand and gradients exchanged: other losses (distillation)."""
        out: Tensor = self._entry(function, *args)
        return out

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; gradients are complete after the `last` of a step.

        DDP exchanges gradients in the last only. FSDP does so in each: to wait would take the memory it saves.
        """
        if isinstance(self._entry, nn.parallel.DistributedDataParallel) and not last:
            with self._entry.no_sync():
                yield
        else:
            yield


def wrap(decoder: Decoder, devices: Devices, mode: Mode = "auto") -> Parallel:
    """`decoder`, already on `devices.device`, for training on all devices; all begin with rank 0's weights.

    "ddp": each holds everything; "fsdp": each holds a share of every weight (FSDP2, arXiv 2304.11277); "auto" is
    "ddp", and one process alone always "none". Compile the decoder before, build the optimizer after.
    """
    if mode not in ("auto", "none", "ddp", "fsdp"):
        raise UsageError(f"distributed is {mode!r}; expected auto, none, ddp or fsdp.")
    entry = _Entry(decoder)
    if devices.world == 1:
        return Parallel(decoder, entry, devices, "none")
    if mode == "none":
        raise UsageError(f"{devices.world} processes with distributed none would each train alone; choose ddp or fsdp.")
    _expect_equal_models(decoder, devices)
    broadcast_parameters(decoder)
    if mode == "fsdp":
        _shard(decoder, entry, devices)
        return Parallel(decoder, entry, devices, "fsdp")
    return Parallel(decoder, _replicate(entry), devices, "ddp")


def _expect_equal_models(decoder: Decoder, devices: Devices) -> None:
    n = torch.tensor([float(sum(p.numel() for p in decoder.parameters())), 1.0], device=devices.device)
    mine, total = n[0].item(), devices.sum_over(n)[0].item()
    if total != mine * devices.world:
        raise TrainingError("The processes have models of different sizes; start all of them with the same config.")


def _replicate(entry: nn.Module) -> nn.Module:
    """DDP whose gradients are summed: without its division by the number of devices."""
    with warnings.catch_warnings():  # the new name of `broadcast_buffers` is too new; the buffers are constants
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        ddp = nn.parallel.DistributedDataParallel(
            entry, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
        )

    def total(bucket: Any) -> Any:
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0])

    ddp.register_comm_hook(None, lambda state, bucket: total(bucket))
    return ddp


def _shard(decoder: Decoder, entry: nn.Module, devices: Devices) -> None:
    """Each layer is gathered when it is used; embedding, output and last norm stay gathered from forward to backward.

    The loss takes the output matrix from the entry's own weights, which is why they are one group with it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(devices.device.type, (devices.world,))
    for module in (*decoder.blk, entry):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # also because gloo knows no average
