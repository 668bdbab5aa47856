"""Conversations of `ingle run`: from a pipe, and on a terminal."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import toys
from cli.processes import INGLE, PATIENCE_S, Terminal, ingle
from ingle.cli.chat import Conversation, unfinished
from ingle.errors import UsageError
from ingle.text import Tokenizer


def conversation(path: Path, texts: list[str], *, interactive: bool = True, system: str | None = None) -> Conversation:
    from ingle.gguf import open_gguf

    tokenizer = Tokenizer.from_metadata(open_gguf(path).metadata)
    script = toys.answers(tokenizer, texts, toys.vocabulary().index("<|im_end|>"))
    model, _ = toys.scripted_model(path, script)
    return Conversation(model, system, {"temperature": 0.0}, interactive=interactive)


def run(found: Conversation, *messages: str) -> None:
    lines: Iterator[str] = iter(messages)
    found.run(lambda: next(lines, None))


def test_messages_and_answers(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(conversation(toy, ["one", "two"]), "a", "", "  ", "b")
    captured = capsys.readouterr()
    assert captured.out == "one\ntwo\n"
    assert captured.err == ""


def test_help_names_every_command_and_key(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(conversation(toy, []), "/help")
    shown = capsys.readouterr().err
    for word in ("/help", "/reset", "/system TEXT", "/retry", "/stats", "/save FILE", "/exit", "Ctrl-C", "Alt-Enter"):
        assert word in shown


def test_retry_reset_and_system(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(toy, ["one", "two"])
    target = tmp_path / "talk.json"
    run(talk, "a", "/retry", "b", "/system Be kind.", "/reset", "c", f"/save {target}")
    assert capsys.readouterr().out == "one\none\ntwo\none\n"
    assert json.loads(target.read_text()) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "one"},
    ]
    run(talk, "/system", f"/save {tmp_path / 'talk.txt'}")
    assert (tmp_path / "talk.txt").read_text() == "user:\nc\n\nassistant:\none\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.json", "talk.txt"]


def test_stats(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(conversation(toy, ["one", "two"]), "a", "b", "/stats")
    shown = capsys.readouterr().err
    assert "TTFT" in shown
    assert "from the cache" in shown


def test_mistakes_are_told_and_the_conversation_goes_on(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.txt").write_text("mine")
    run(
        conversation(toy, ["one"]),
        *("/retry", "/stats", "/save", "/nonsense", "x" * 400),
        *(f"/save {tmp_path / 'there.txt'}", f"/save {tmp_path / 'no' / 'where.txt'}", "a"),
    )
    captured = capsys.readouterr()
    assert captured.out == "one\n"
    told = captured.err.replace("\n", " ")
    for words in ("no answer to try", "no answer yet", "/save FILE", "no command /nonsense", "context holds 256"):
        assert words in told
    for words in ("there.txt exists", "No such file"):
        assert words in told
    assert (tmp_path / "there.txt").read_text() == "mine"


def test_an_answer_that_fills_the_context_says_so(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(conversation(toy, ["x" * 300, ""]), "a", "/reset")
    captured = capsys.readouterr()
    assert set(captured.out) == {"x", "\n"}
    assert "the context is full; /reset makes room" in captured.err


def test_from_a_pipe_a_mistake_ends_it(toy: Path) -> None:
    with pytest.raises(UsageError, match="/nonsense"):
        run(conversation(toy, ["one"], interactive=False), "/nonsense", "a")


def test_quoted_messages() -> None:
    assert unfinished('"""Hello')
    assert unfinished('"""')
    assert not unfinished('"""Hello"""')
    assert not unfinished('say """')
    assert not unfinished("Hello")


def test_a_pipe_is_read_line_by_line(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "talk.json"
    typed = f'hello\n\n"""two\nlines"""\n/save {target}\n/exit\nnever\n'
    done = ingle("run", toy, "--max-tokens", "4", "--seed", "1", "--system", "Hush.", stdin=typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert ">" not in done.stdout.splitlines()[0][:2]
    messages = json.loads(target.read_text())
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[i]["content"] for i in (0, 1, 3)] == ["Hush.", "hello", "two\nlines"]


def test_an_answer_comes_before_the_next_line_is_asked_for(endless: Path) -> None:
    words = [*INGLE, "run", str(endless), "--max-tokens", "5"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"aaaaa\n"
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


def test_a_pipe_that_is_too_long_for_the_context(toy: Path) -> None:
    done = ingle("run", toy, stdin="x" * 1000 + "\n")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "context holds 256" in done.stderr


def test_on_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(endless: Path) -> None:
    with Terminal("run", endless, "--context", "100000") as terminal:
        at = terminal.expect(r"Ctrl-D leaves")
        at = terminal.expect(r">", at)
        terminal.send("hello\r")
        at = terminal.expect(r"aaaa", at)
        terminal.send("\x03")
        at = terminal.expect(r"\[stopped\]", at)
        at = terminal.expect(r">", at)
        terminal.send("again\r")
        at = terminal.expect(r"aaaa", at)
        terminal.send("\x03")
        at = terminal.expect(r"\[stopped\]", at)
        at = terminal.expect(r">", at)
        terminal.send("\x03")  # at the prompt it discards the line
        terminal.send("/stats\r")
        at = terminal.expect(r"TTFT", at)
        at = terminal.expect(r">", at)
        terminal.send("\x04")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.seen


def test_on_a_terminal_messages_may_have_several_lines(endless: Path, tmp_path: Path) -> None:
    target = tmp_path / "talk.json"
    with Terminal("run", endless, "--max-tokens", "3") as terminal:
        at = terminal.expect(r">")
        terminal.send("one\x1b\rtwo\r")
        at = terminal.expect(r"aaa", at)
        at = terminal.expect(r">", at)
        terminal.send('"""three\rfour\r"""\r')
        at = terminal.expect(r"aaa", at)
        at = terminal.expect(r">", at)
        terminal.send("\x1b[A\x1b[A")  # history: up twice begins in the last line of the last message
        terminal.send("\x03")
        terminal.send(f"/save {target}\r")
        at = terminal.expect(r">", at)
        terminal.send("/exit\r")
        assert terminal.wait() == 0
    contents = [message["content"] for message in json.loads(target.read_text())]
    assert contents == ["one\ntwo", "aaa", "three\nfour", "aaa"]


def test_what_is_typed_is_kept_only_where_one_asks(endless: Path, tmp_path: Path) -> None:
    kept = tmp_path / "history"
    for words in ([], ["--history", str(kept)]):
        with Terminal("run", endless, "--max-tokens", "3", *words) as terminal:
            at = terminal.expect(r">")
            terminal.send("remember me\r")
            at = terminal.expect(r"aaa", at)
            terminal.expect(r">", at)
            terminal.send("\x04")
            assert terminal.wait() == 0
        assert kept.exists() == bool(words)
    assert "remember me" in kept.read_text()


def test_answers_can_be_piped_away_while_one_types(endless: Path, tmp_path: Path) -> None:
    with (
        (tmp_path / "out.txt").open("wb") as out,
        Terminal("run", endless, "--max-tokens", "3", stdout=out.fileno()) as terminal,
    ):
        at = terminal.expect(r">")
        terminal.send("hello\r")
        terminal.expect(r"hello\n[^\n]*>", at)
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert (tmp_path / "out.txt").read_text() == "aaa\n"
