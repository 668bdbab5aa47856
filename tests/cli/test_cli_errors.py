"""Wrong input: one line on stderr, status 2, nothing on stdout, never a traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.processes import INGLE, ingle
from ingle.cli import cli


def fails(*words: str | Path) -> str:
    """Run in this process; gives the sentence."""
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("ingle: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_the_real_program_says_it_in_one_line(tmp_path: Path) -> None:
    done = ingle("run", tmp_path / "none.gguf", "hello")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "none.gguf" in done.stderr


def test_an_instruction_set_that_is_none(toy: Path) -> None:
    done = ingle("run", toy, "hello", env=os.environ | {"INGLE_ISA": "mmx"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert '"mmx"' in done.stderr


@pytest.mark.parametrize("verb", [("run", "{}", "hello"), ("inspect", "{}"), ("convert", "{}", "OUT", "--type", "f16")])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "magic", "truncated"])
def test_files_that_are_no_models(verb: tuple[str, ...], kind: str, tmp_path: Path, toy: Path) -> None:
    path = tmp_path / "model.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        whole = toy.read_bytes()
        contents = {"empty": b"", "text": b"Once upon a time, " * 99, "magic": b"GGML" + whole[4:]}
        path.write_bytes(contents.get(kind, whole[: len(whole) // 2]))
    out = str(tmp_path / "out.gguf")
    message = fails(*(word.format(path).replace("OUT", out) for word in verb))
    assert "model.gguf" in message
    assert not Path(out).exists()


def test_a_truncated_file_at_every_length_class(tmp_path: Path, toy: Path) -> None:
    whole = toy.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (1, 4, 8, 20, 24, 100, 1000, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        fails("run", path, "hello")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    assert "ermission" in fails("inspect", path)


def test_a_prompt_that_is_too_long(toy: Path) -> None:
    message = fails("run", toy, "x" * 1000, "--raw", "--context", "100")
    assert "1000 tokens" in message
    assert "context holds 100" in message
    assert "256" in message
    assert "larger context" not in fails("run", toy, "x" * 1000, "--raw")


def test_a_context_that_the_model_cannot_have(toy: Path) -> None:
    for words in (("run", toy, "hello"), ("inspect", toy)):
        message = fails(*words, "--context", "257")
        assert "257" in message
        assert "ask for 256 or less" in message


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["--temperature", "-1"], "--temperature"),
        (["--temperature", "warm"], "warm"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-k", "-1"], "--top-k"),
        (["--top-p", "0"], "--top-p"),
        (["--top-p", "1.5"], "--top-p"),
        (["--min-p", "2"], "--min-p"),
        (["--repeat-penalty", "0"], "--repeat-penalty"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--context", "0"], "--context"),
        (["--threads", "0"], "--threads"),
        (["--seed", "-5"], "--seed"),
        (["--seed", str(2**64)], "seed is"),
        (["--backend", "abacus"], "abacus"),
        (["--stop", ""], "stop string is empty"),
        (["--raw", "--system", "x"], "--system"),
        (["--colour"], "--colour"),
        (["one argument too many"], "too many"),
    ],
)
def test_options_that_cannot_be(toy: Path, words: list[str], about: str) -> None:
    assert about in fails("run", toy, "hello", *words)


def test_an_error_with_json_leaves_stdout_empty(toy: Path) -> None:
    fails("run", toy, "x" * 1000, "--json")
    fails("run", toy, "--json")
    fails("inspect", toy.parent / "none.gguf", "--json")


def test_what_needs_a_template_says_so(plain: Path) -> None:
    assert "no" in fails("run", plain, "hello", "--system", "x")


def test_an_empty_prompt(toy: Path) -> None:
    assert "prompt is empty" in fails("run", toy, "", "--raw")


def test_an_unknown_verb() -> None:
    message = fails("rum")
    assert "rum" in message
    assert "See: ingle --help" in message


def test_messages_cannot_steer_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in fails("inspect", tmp_path / "a\x1b[31mb.gguf")


def test_a_full_disk_is_told(toy: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a device that is always full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*INGLE, "run", str(toy), "hello"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert "No space left" in done.stderr.decode()


def test_memory_that_is_not_there(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.engine.memory.available_bytes", lambda: 400_000)
    message = fails("run", toy, "hello")
    assert "KV cache of 256" in message
    assert "0.4 MiB are free" in message


def test_ctrl_c_while_loading(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ingle.engine.model.load", interrupted)
    result = CliRunner().invoke(cli, ["run", str(toy), "hello"])
    assert (result.exit_code, result.stdout.strip()) == (130, "")


def test_our_own_bugs_show_a_traceback(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ingle.engine.model.load", bug)
    result = CliRunner().invoke(cli, ["run", str(toy), "hello"])
    assert isinstance(result.exception, ZeroDivisionError)
