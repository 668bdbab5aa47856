"""Whole tensors and the shards of them that devices hold (FSDP2 cuts by rows), to and from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ingle.errors import TrainingError
from ingle.train.decoder import Decoder

__all__ = [
    "any_process",
    "broadcast_parameters",
    "full_parameters",
    "full_tensors",
    "gather_rows",
    "least_of_all",
    "load_full",
    "load_tensors",
    "local",
    "own_rows",
    "share_work",
    "sum_if_sharded",
    "world_size",
]


def world_size() -> int:
    """Processes that train together; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local(x: Tensor) -> Tensor:
    """What of `x` this device holds; writing to it writes to `x`."""
    return x.to_local().detach() if isinstance(x, DTensor) else x.detach()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process says yes. Every process must ask."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return bool(votes > 0)


def least_of_all(n: int, device: torch.device) -> int:
    """The least `n` of all processes. Every process must ask."""
    if world_size() == 1:
        return n
    least = torch.tensor(n, device=device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def sum_if_sharded(x: Tensor, like: Tensor) -> Tensor:
    """`x` summed over the devices that hold the shards of `like`; `x` itself where each device holds all of it."""
    if isinstance(like, DTensor):
        dist.all_reduce(x, group=like.device_mesh.get_group())
    return x


def broadcast_parameters(decoder: Decoder) -> None:
    """Gives every device rank 0's weights; before they are sharded."""
    for parameter in decoder.parameters():
        dist.broadcast(parameter.detach(), 0)


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor whole, on the CPU of rank 0; {} elsewhere. Every device must call it; one tensor moves at a time."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
        if first:
            full[name] = whole.to("cpu", copy=True)
    return full


def load_tensors(into: Mapping[str, Tensor], full: Mapping[str, Tensor], what: str) -> None:
    """Copies `full`, of which only rank 0's counts, into `into`, each device its part. Every device must call it.

    Raises TrainingError on every device, before anything is written, where names or shapes differ on rank 0. `what`
    names the source in the sentence.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    problem = _difference(into, full, what) if first else None
    device = local(next(iter(into.values()))).device
    if any_process(problem is not None, device):
        raise TrainingError(problem or f"The first process could not use {what}; its message says why.")
    for name, tensor in into.items():
        target = local(tensor)
        if isinstance(tensor, DTensor):
            whole = full[name].to(target) if first else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            target.copy_(local(distribute_tensor(whole, tensor.device_mesh, tensor.placements)))
            continue
        if first:
            target.copy_(full[name])
        if world_size() > 1:
            dist.broadcast(target, 0)


def _difference(into: Mapping[str, Tensor], full: Mapping[str, Tensor], what: str) -> str | None:
    if missing := [name for name in into if name not in full]:
        return f"{what} has no tensor {missing[0]!r} ({len(missing)} are missing); it is of another model or recipe."
    if unknown := [name for name in full if name not in into]:
        return f"{what} has a tensor {unknown[0]!r} that is not expected; it is of another model or recipe."
    for name, tensor in into.items():
        if full[name].shape != tensor.shape:
            have, want = list(full[name].shape), list(tensor.shape)
            return f"{name} in {what} has the shape {have}; expected {want}; it is of another model."
    return None


def full_parameters(decoder: Decoder) -> dict[str, Tensor]:
    """Every parameter by name: whole, on the CPU of rank 0; {} elsewhere. Every device must call it."""
    return full_tensors(dict(decoder.named_parameters()))


def load_full(decoder: Decoder, tensors: Mapping[str, Tensor]) -> None:
    """Gives every device its part of `tensors`, of which only rank 0's count. Every device must call it.

    Raises TrainingError where names or shapes differ from the decoder's.
    """
    load_tensors(dict(decoder.named_parameters()), tensors, "the checkpoint")


def gather_rows(x: Tensor, like: Tensor) -> Tensor:
    """This device's rows of n matrices, sharded as `like` is: [n, rows here, columns] -> [n, rows, columns]."""
    if not isinstance(like, DTensor):
        return x
    n, here, columns = x.shape
    rows, world = like.shape[0], like.device_mesh.size()
    most = -(-rows // world)  # the last devices may hold fewer rows than the first, or none
    padded = x.new_zeros(n, most, columns)
    padded[:, :here] = x
    everyone = x.new_empty(world * n, most, columns)
    dist.all_gather(list(everyone.chunk(world)), padded, like.device_mesh.get_group())
    return everyone.view(world, n, most, columns).transpose(0, 1).reshape(n, world * most, columns)[:, :rows]


def own_rows(x: Tensor, like: Tensor) -> Tensor:
    """The opposite of `gather_rows`: [n, rows, columns] -> [n, rows here, columns]."""
    if not isinstance(like, DTensor):
        return x
    begin = like.device_mesh.get_local_rank() * -(-like.shape[0] // like.device_mesh.size())
    return x[:, begin : begin + local(like).shape[0]]


def share_work(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)` for a function that maps each x[i] by itself to a like tensor; each device computes its share.

    `x` must be equal on all devices. So is the result, to the last bit, however unlike the devices are.
    """
    world = world_size()
    if world == 1:
        return function(x)
    each = -(-len(x) // world)
    begin = dist.get_rank() * each
    mine = x.new_zeros(each, *x.shape[1:])
    if begin < len(x):
        part = x[begin : begin + each]
        mine[: len(part)] = function(part)
    everyone = x.new_empty(world * each, *x.shape[1:])
    dist.all_gather(list(everyone.chunk(world)), mine)
    return everyone[: len(x)]
