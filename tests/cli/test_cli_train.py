"""`ingle train` as people start it: what it says, how it ends, and on two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from cli.processes import INGLE, Terminal
from ingle.cli import cli
from ingle.train.run_folder import toml
from train.small_runs import losses, records, sections

PATIENCE_S = 120


def write_config(folder: Path, name: str = "tiny.toml", **train: object) -> Path:
    path = folder / name
    path.write_text(toml(sections(folder, **train)))
    return path


def train(*words: str | Path) -> Result:
    """In this process, which has loaded PyTorch already."""
    return CliRunner().invoke(cli, ["train", *map(str, words)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that a run of 6 steps was started in, and what the run said."""
    folder = tmp_path_factory.mktemp("train")
    write_config(folder)
    words = [*INGLE, "train", "tiny.toml"]
    return folder, subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_run_says_what_it_does_and_what_comes_next(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("runs/tiny/model: 27,808 parameters, ")
    assert "validation loss" in first
    assert last == "ingle export runs/tiny tiny.gguf --type q8_0 && ingle run tiny.gguf"
    assert "6 steps of 128 tokens" in done.stderr
    assert "weights, gradients and optimizer take" in done.stderr
    assert (folder / "runs" / "tiny" / "model" / "model.safetensors").is_file()
    assert "\x1b" not in done.stdout + done.stderr


def test_mistakes_are_one_line(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    folder, _ = finished
    run = folder / "runs" / "tiny"
    for words, message in (
        ((folder / "tiny.toml", "--out", run), "exists; --resume goes on"),
        ((run, "--resume", "--set", "model.width=64"), "begun with model.width = 32, now it is 64"),
        ((tmp_path / "no.toml",), "cannot be read: No such file"),
        ((run,), "is a folder; give the TOML file"),
        ((tmp_path, "--resume"), "config.toml cannot be read"),
        ((folder / "tiny.toml", "--set", "train.stps=1"), "no setting 'stps'; did you mean steps?"),
    ):
        done = train(*words)
        assert done.exit_code == 2
        assert done.stderr.startswith("ingle: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert losses(run)[-1][0] == 6


def test_records_as_json(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Also: a run goes on by its folder alone, with more steps."""
    folder, _ = finished
    config = write_config(folder, "json.toml", steps=2)
    done = train(config, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2]
    assert [event["loss"] for event in events if event["event"] == "step"] == [
        loss for _, loss in losses(folder / "runs" / "tiny")[:2]
    ]
    assert done.stderr == ""
    done = train(tmp_path / "run", "--resume", "--set", "train.steps=3")
    assert done.exit_code == 0
    assert "Going on after step 2" in done.stderr
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3]


def test_ctrl_c_on_a_terminal_ends_with_a_checkpoint(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = finished
    config = write_config(folder, "long.toml", steps=100_000)
    terminal = Terminal("train", config, "--out", tmp_path / "run")
    with terminal:
        terminal.expect(r"Training .*loss \d\.\d{3}")
        terminal.send("\x03")
        terminal.expect(r"Stopped after step [\d,]+\. To go on: ingle train .*run --resume")
        assert terminal.wait() == 130
    step = records(tmp_path / "run", "checkpoint")[-1]["step"]
    assert step == losses(tmp_path / "run")[-1][0]


def test_two_processes_give_the_losses_of_one(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = finished
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = write_config(folder, "two.toml", distributed="fsdp")
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    words += ["--master-port", str(port), "-m", "ingle", "train", str(config), "--out", str(tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ingle export") == 1
    alone, together = losses(folder / "runs" / "tiny"), losses(tmp_path / "run")
    assert [step for step, _ in together] == [step for step, _ in alone]
    for (_, loss), (_, expected) in zip(together, alone, strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
    scores = [records(path, "validation")[-1]["loss"] for path in (tmp_path / "run", folder / "runs" / "tiny")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_sigterm_ends_with_a_checkpoint_and_143(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = finished
    config = write_config(folder, "term.toml", steps=100_000)
    words = [*INGLE, "train", str(config), "--out", str(tmp_path / "run"), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["event"] != "step":
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert records(tmp_path / "run", "end")[-1]["status"] == "stopped"
