"""Answers that an error ends, as when the model's file has changed: what was said is kept, and the error is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import toys
from ingle.cli import cli
from ingle.cli.chat import Conversation
from ingle.engine.model import Model
from ingle.errors import GGUFError

SENTENCE = "model.gguf changed while it was read: download it again."
LETTER = toys.vocabulary().index("a")


def failing(path: Path, n_good: int, *, n_failures: int = 1) -> Model:
    """A model that says "a" so many times, then fails so often, and then says "a" on and on."""
    left = n_good

    def next_token(tokens: list[int]) -> int:
        nonlocal left
        left -= 1
        if -n_failures <= left < 0:
            raise GGUFError(SENTENCE)
        return LETTER

    return toys.scripted_model(path, next_token)[0]


@pytest.fixture
def runs(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`ingle run` with a model that fails after so many tokens: exit status, stdout, stderr."""

    def run(n_good: int, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("ingle.cli.run.open_model", lambda path, options: failing(toy, n_good))
        result = CliRunner().invoke(cli, ["run", str(toy), "hello", *words])
        assert isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.mark.parametrize("n_good", [0, 1, 5])
def test_what_was_said_is_kept_and_the_error_is_one_line(
    runs: Callable[..., tuple[int, str, str]], n_good: int
) -> None:
    status, stdout, stderr = runs(n_good)
    assert status == 2
    assert stdout == ("a" * n_good + "\n" if n_good else "")
    assert stderr == f"ingle: {SENTENCE}\n"


@pytest.mark.parametrize("n_good", [0, 4])
def test_the_record_says_so_and_has_what_was_said(runs: Callable[..., tuple[int, str, str]], n_good: int) -> None:
    status, stdout, stderr = runs(n_good, "--json")
    assert (status, stderr) == (2, f"ingle: {SENTENCE}\n")
    record = json.loads(stdout)
    assert (record["finish_reason"], record["error"]) == ("error", SENTENCE)
    assert record["text"] == "a" * n_good
    assert record["timings"]["n_tokens"] == len(record["tokens"]) == n_good


def test_numbers_are_told_before_the_error(runs: Callable[..., tuple[int, str, str]]) -> None:
    status, stdout, stderr = runs(3, "--verbose")
    assert (status, stdout) == (2, "aaa\n")
    assert "decode" in stderr
    assert stderr.endswith(f"ingle: {SENTENCE}\n")


def converse(model: Model, *messages: str, interactive: bool = True) -> None:
    lines: Iterator[str] = iter(messages)
    Conversation(model, None, {"max_tokens": 6}, interactive=interactive).run(lambda: next(lines, None))


def test_a_conversation_goes_on(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "talk.json"
    converse(failing(toy, 4), "one", "two", f"/save {target}")
    captured = capsys.readouterr()
    assert captured.out == "aaaa\naaaaaa\n"
    assert "[cut short; /retry answers once more]" in captured.err
    assert f"GGUFError: {SENTENCE}" in captured.err
    said = [message["content"] for message in json.loads(target.read_text())]
    assert said == ["one", "aaaa", "two", "aaaaaa"]


def test_in_a_conversation_the_answer_can_be_tried_again(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "talk.json"
    converse(failing(toy, 4), "one", "/retry", f"/save {target}")
    assert capsys.readouterr().out == "aaaa\naaaaaa\n"
    assert [message["content"] for message in json.loads(target.read_text())] == ["one", "aaaaaa"]


def test_where_nothing_was_said_there_is_nothing_to_retry(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converse(failing(toy, 0), "one", "two")
    captured = capsys.readouterr()
    assert captured.out == "aaaaaa\n"
    assert "/retry" not in captured.err
    assert SENTENCE in captured.err


def test_from_a_pipe_it_ends_the_conversation(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GGUFError, match="changed"):
        converse(failing(toy, 2), "one", "two", interactive=False)
    assert capsys.readouterr().out == "aa\n"
