"""`ingle convert`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import toys
from cli.processes import INGLE, PATIENCE_S, Terminal, ingle
from ingle.cli import cli
from ingle.cli.convert import TYPES
from ingle.gguf import FileType, open_gguf


def convert(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["convert", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_every_file_type_can_be_asked_for() -> None:
    assert {name.upper() for name in TYPES} == {file_type.name for file_type in FileType}


def test_it_says_what_it_wrote(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.gguf"
    status, stdout, stderr = convert(toy, out, "--type", "Q8_0")
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"{out}: q8_0, ")
    assert "35,808 parameters" in stdout
    assert "8.6" in stdout  # 8.5 bits, and the norms in float
    with open_gguf(out) as file:
        assert file.tensors["blk.0.attn_q.weight"].type.name == "Q8_0"
    done = ingle("run", out, "hello", "--max-tokens", "3", "--seed", "1")
    assert done.returncode == 0
    assert os.listdir(tmp_path) == ["small.gguf"]


def test_from_a_hugging_face_directory(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert convert(toys.huggingface_llama(tmp_path / "hf"), out, "--type", "f16")[0] == 0
    done = ingle("run", out, "hello", "--max-tokens", "3", "--seed", "1")
    assert done.returncode == 0
    with open_gguf(out) as file:
        assert file.metadata.get_str("tokenizer.chat_template") == toys.CHATML


def test_what_is_there_is_not_overwritten_unasked(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    status, _, stderr = convert(toy, out, "--type", "f16")
    assert status == 2
    assert "--force" in stderr
    assert out.read_text() == "mine"
    assert convert(toy, out, "--type", "f16", "--force")[0] == 0
    assert out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("source", "out", "words", "about"),
    [
        ("toy.gguf", "out.bin", ["--type", "f16"], ".gguf"),
        ("toy.gguf", "no/such/out.gguf", ["--type", "f16"], "does not exist"),
        ("toy.gguf", "toy.gguf", ["--type", "f16", "--force"], "another name"),
        ("toy.gguf", "folder.gguf", ["--type", "f16", "--force"], "directory"),
        ("toy.gguf", "out.gguf", [], "--type"),
        ("toy.gguf", "out.gguf", ["--type", "q3"], "q3"),
        ("none.gguf", "out.gguf", ["--type", "f16"], "none.gguf"),
        ("folder.gguf", "out.gguf", ["--type", "f16"], "folder.gguf"),
    ],
)
def test_what_cannot_be(tmp_path: Path, source: str, out: str, words: list[str], about: str) -> None:
    toys.toy_gguf(tmp_path / "toy.gguf")
    (tmp_path / "folder.gguf").mkdir()
    status, stdout, stderr = convert(tmp_path / source, tmp_path / out, *words)
    assert (status, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert about in stderr
    assert sorted(os.listdir(tmp_path)) == ["folder.gguf", "toy.gguf"]


def test_the_bar_shows_bytes_and_rate(toy: Path, tmp_path: Path) -> None:
    with Terminal("convert", toy, tmp_path / "out.gguf", "--type", "q8_0") as terminal:
        assert terminal.wait() == 0
        assert "bits per weight" in terminal.seen


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    source = toys.toy_gguf(tmp_path / "wide.gguf", n_embd=768, n_layers=4)
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [*INGLE, "convert", str(source), str(tmp_path / "out" / "out.gguf"), "--type", "q4_k_m"],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + PATIENCE_S
    while not os.listdir(tmp_path / "out"):
        assert time.monotonic() < deadline
        assert process.poll() is None, "the conversion was over before it could be interrupted"
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    assert os.listdir(tmp_path / "out") == []
