"""What test_distributed runs, here alone and there under torchrun: the same steps, cut among the processes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ingle.errors import TrainingError
from ingle.train.decoder import Decoder
from ingle.train.distributed import Devices, Mode, connected, full_parameters, load_full, wrap
from ingle.train.loss import IGNORED
from ingle.train.optim import build_optimizer
from ingle.train.recipes import Recipe
from ingle.train.shape import Shape

STEPS, MIDDLE = 5, 2
ROWS, POSITIONS = 7, 8  # the second process has a row less than the first

#: Odd sizes, so that shards are unlike; a layer used twice; embedding tied to the output and not.
SHAPES = {
    "adamw": Shape(
        vocabulary=51, width=36, layers=2, heads=3, kv_heads=1, hidden=47, sharing="immediate", context=POSITIONS
    ),
    "muon": Shape(
        vocabulary=51,
        width=36,
        layers=3,
        heads=3,
        kv_heads=1,
        hidden=47,
        sharing="repeat",
        qk_norm=True,
        tied=False,
        context=POSITIONS,
    ),
}
RECIPES = {
    "adamw": Recipe(optimizer="adamw", lr=1e-2, clip=0.5),
    "muon": Recipe(optimizer="muon", lr=1e-2, clip=0.5, cautious=True),
}


def step_rows(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and documents [ROWS, POSITIONS] of a step: few targets in the odd rows."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(51, (ROWS, POSITIONS), generator=generator)
    targets = torch.randint(51, (ROWS, POSITIONS), generator=generator)
    targets[1::2][torch.rand(ROWS // 2, POSITIONS, generator=generator) < 0.8] = IGNORED
    targets[::2, -1] = IGNORED
    return tokens, targets, (torch.arange(POSITIONS) >= POSITIONS // 2).int().expand(ROWS, POSITIONS)


def run(
    devices: Devices, mode: Mode, which: str, seed: int, steps: range, start: tuple[dict[str, Tensor], ...] | None
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """[steps, 2] losses and norms; then parameters and optimizer state, whole, on rank 0."""
    torch.manual_seed(seed)
    decoder = Decoder(SHAPES[which])
    parallel = wrap(decoder, devices, mode)
    optimizers = build_optimizer(decoder, RECIPES[which])
    optimizers.muon.dtype = torch.float32  # bfloat16 would enlarge the last bits in which the sums differ
    if start is not None:
        load_full(decoder, start[0])
        optimizers.load_flat(start[1])
    seen = []
    for step in steps:
        rows = step_rows(step)
        n_targets = int((rows[1] != IGNORED).sum())
        parts = [part[devices.rank :: devices.world] for part in rows]
        micro_batches = list(zip(*(part.split(-(-len(part) // 2)) for part in parts), strict=True))
        total = torch.zeros(())
        for i, batch in enumerate(micro_batches):
            with parallel.accumulating(last=i == len(micro_batches) - 1):
                loss = parallel(*batch) / n_targets
                loss.backward()
            total += loss.detach()
        seen.append([devices.sum_over(total).item(), optimizers.clip()])
        optimizers.step(0.7)
        optimizers.zero_grad()
    return torch.tensor(seen, dtype=torch.float64), full_parameters(decoder), optimizers.state_dict_flat()


def pack(result: tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """One flat dict, for a file."""
    seen, parameters, state = result
    return {"seen": seen} | {f"w/{n}": t for n, t in parameters.items()} | {f"s/{n}": t for n, t in state.items()}


def unpack(tensors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The opposite of `pack`."""
    parameters = {n[2:]: t for n, t in tensors.items() if n.startswith("w/")}
    return tensors["seen"], parameters, {n[2:]: t for n, t in tensors.items() if n.startswith("s/")}


def train_all(devices: Devices, folder: Path) -> None:
    """Every mode and optimizer: from another seed on each process, and from one process's state in the middle."""
    modes: tuple[Mode, ...] = ("ddp", "fsdp")
    for which in RECIPES:
        alone = unpack(load_file(folder / f"{which}.safetensors"))[1:] if devices.first else ({}, {})
        for mode in modes:
            fresh = run(devices, mode, which, devices.rank, range(MIDDLE), None)
            resumed = run(devices, mode, which, 9, range(MIDDLE, STEPS), alone)
            if devices.first:
                save_file(pack(fresh), folder / f"{which}-{mode}-fresh.safetensors")
                save_file(pack(resumed), folder / f"{which}-{mode}-resumed.safetensors")


def expect_refusals(devices: Devices) -> None:
    """What must be refused on all processes at once, so that none waits for another."""
    with pytest.raises(TrainingError, match="has no tensor" if devices.first else "The first process could not use"):
        load_full(Decoder(SHAPES["adamw"]), {})
    with pytest.raises(TrainingError, match="different sizes"):
        wrap(Decoder(SHAPES["muon" if devices.first else "adamw"]), devices, "ddp")
    assert devices.any_over(devices.rank == 1)
    assert not devices.any_over(False)


def main(folder: Path) -> None:
    """In the end rank 1 leaves without a word, and rank 0 must say so."""
    try:
        with connected("cpu", 60) as devices:
            train_all(devices, folder)
            expect_refusals(devices)
            if devices.rank == 1:
                (folder / "left").touch()
                os._exit(0)
            devices.wait()
            devices.wait()
    except TrainingError as error:
        (folder / "lost").write_text(str(error))


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
