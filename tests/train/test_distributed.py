"""Two processes give the losses of one; and what is said where they cannot. Only over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from two_processes import MIDDLE, RECIPES, SHAPES, STEPS, pack, run, unpack

from ingle.errors import TrainingError, UsageError
from ingle.train.decoder import Decoder
from ingle.train.distributed import Devices, connected, full_parameters, load_full, pick_device, wrap

Result = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]

ALONE = Devices(0, 1, 0, torch.device("cpu"), None)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[Result, Result]]:
    """One process's run of each recipe: its first steps, and its last ones."""
    results = {}
    for which in RECIPES:
        first = run(ALONE, "none", which, 0, range(MIDDLE), None)
        results[which] = first, run(ALONE, "none", which, 1, range(MIDDLE, STEPS), first[1:])
    return results


@pytest.fixture(scope="module")
def folder(alone: dict[str, tuple[Result, Result]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that two processes under torchrun wrote."""
    folder = tmp_path_factory.mktemp("two")
    for which, (first, _) in alone.items():
        save_file(pack(first), folder / f"{which}.safetensors")
    worker = [str(Path(__file__).with_name("two_processes.py")), str(folder)]
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *worker],
        env={n: v for n, v in os.environ.items() if n not in VARIABLES} | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    return folder


def assert_equal(ours: Result, theirs: Result) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert mine.keys() == other.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("which", list(RECIPES))
def test_two_processes_give_the_losses_of_one(
    which: str, mode: str, folder: Path, alone: dict[str, tuple[Result, Result]]
) -> None:
    """Rank 1 began from other weights: rank 0's must have reached it."""
    assert_equal(unpack(load_file(folder / f"{which}-{mode}-fresh.safetensors")), alone[which][0])


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("which", list(RECIPES))
def test_two_processes_go_on_where_one_stopped(
    which: str, mode: str, folder: Path, alone: dict[str, tuple[Result, Result]]
) -> None:
    assert_equal(unpack(load_file(folder / f"{which}-{mode}-resumed.safetensors")), alone[which][1])


@pytest.mark.parametrize("which", list(RECIPES))
def test_one_process_goes_on_where_two_stopped(
    which: str, folder: Path, alone: dict[str, tuple[Result, Result]]
) -> None:
    begin = unpack(load_file(folder / f"{which}-fsdp-fresh.safetensors"))[1:]
    assert_equal(run(ALONE, "none", which, 1, range(MIDDLE, STEPS), begin), alone[which][1])


def test_a_refusal_reaches_both_processes_and_one_that_ends_is_missed(folder: Path) -> None:
    """`expect_refusals` ran in both to its end; then rank 1 left, and rank 0 did not wait for it."""
    assert (folder / "left").exists()
    assert (folder / "lost").read_text().startswith("Process 0 of 2 lost the others")


def test_the_runs_learn(alone: dict[str, tuple[Result, Result]]) -> None:
    for first, last in alone.values():
        assert (first[0][:, 1] > 0.5).all()  # so that clipping was part of what was compared
        assert not torch.equal(first[1]["blk.0.ffn_up.weight"], last[1]["blk.0.ffn_up.weight"])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    return monkeypatch


def test_alone_without_torchrun(environment: pytest.MonkeyPatch) -> None:
    with connected("cpu") as devices:
        assert devices == ALONE
        assert devices.first
        assert devices.any_over(True)
        assert not devices.any_over(False)
        assert devices.sum_over(torch.tensor([2.0])).tolist() == [2.0]
        decoder = Decoder(SHAPES["adamw"])
        assert wrap(decoder, devices, "fsdp").mode == "none"
        load_full(decoder, full_parameters(Decoder(SHAPES["adamw"])))
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2"}, "RANK=''"),
        ({"RANK": "0", "WORLD_SIZE": "many"}, "WORLD_SIZE='many'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "LOCAL_RANK='-1'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "did not meet them"),  # no address
    ],
)
def test_an_environment_that_makes_no_sense(
    values: dict[str, str], words: str, environment: pytest.MonkeyPatch
) -> None:
    for name, value in values.items():
        environment.setenv(name, value)
    with pytest.raises(TrainingError, match=words), connected("cpu", 1):
        pass


def test_an_address_in_use(environment: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            environment.setenv(name, value)
        with pytest.raises(TrainingError, match=f"127.0.0.1:{port}.* is in use"), connected("cpu", 2):
            pass


def test_processes_that_do_not_come(environment: pytest.MonkeyPatch) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in values.items():
        environment.setenv(name, value)
    with pytest.raises(TrainingError, match="all 2 processes and did not meet them"), connected("cpu", 1):
        pass


def test_processes_that_were_told_of_unlike_numbers(environment: pytest.MonkeyPatch) -> None:
    """The other process has said 3 where this one meets it: the store is torchrun's, as under torchrun."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    dist.PrefixStore("/worker/attempt_0", store).set("ingle/world/1", "3")
    store.set("ingle/world/1", "3")
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in (values | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        environment.setenv(name, value)
    with (
        pytest.raises(TrainingError, match="Process 0 was told of 2 processes and process 1 of 3"),
        connected("cpu", 5),
    ):
        pass


def test_devices_and_modes_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(SHAPES["adamw"])
    with pytest.raises(UsageError, match="no device 'tpu'"):
        pick_device("tpu")
    with pytest.raises(UsageError, match="expected auto, none, ddp or fsdp"):
        wrap(decoder, ALONE, "dp")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="would each train alone"):
        wrap(decoder, Devices(0, 2, 0, torch.device("cpu"), "gloo"), "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="process 3 on a machine with 2 GPUs"):
        pick_device("auto", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="no CUDA"):
        pick_device("cuda")
