"""`ingle data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import Terminal, ingle

from ingle.cli import cli
from ingle.train.data.vocabulary import train_tokenizer


def data(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["data", *map(str, words)])


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    records = [
        {"prompt": "Is it [red]hot[/red]?", "response": "It is."},
        {"prompt": "Why?", "response": "Fire.", "license": "mit"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, {"x": 1}]))
    return path


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text("The fire was small.\n<|endoftext|>\nThe fire was small.\n<|endoftext|>\nIt grew.\n")
    return path


def test_what_is_shown(chats: Path, story: Path) -> None:
    result = data(chats, story, "--licence", "cc0")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["source", "documents", "size", "characters", "learnt", "copies", "broken"] in rows
    assert [str(story), "3", "46", "B", "46", "100.0%", "1", "0"] in rows
    assert [row[:2] for row in rows if row[:1] == ["total"]] == [["total", "5"]]
    assert "licences  cc0 (4), mit (1)" in result.stdout
    assert "characters in a document" in result.stdout
    assert f"example   {chats}:1 (learnt: between >> and <<)" in result.stdout
    assert (
        "<|im_start|>user\nIs it [red]hot[/red]?<|im_end|>\n<|im_start|>assistant\n>>It is.<|im_end|><<"
        in result.stdout
    )
    assert f"example   {story}:1 (learnt: all of it)\nThe fire was small.\n" in result.stdout
    assert f"broken    1 records or files cannot be read:\n  {chats}:3: there is no field" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_tokens_with_a_tokenizer(tmp_path: Path, story: Path) -> None:
    vocabulary = train_tokenizer(["The fire was small."] * 2, 288)
    vocabulary.save(tmp_path / "tokenizer.json")
    record = json.loads(data(story, "-t", tmp_path, "--json", "--examples", "2").stdout)
    ids = [vocabulary.tokenizer.encode(text).ids for text in ("The fire was small.", "It grew.")]
    assert record["total"]["tokens"] == 2 * len(ids[0]) + len(ids[1]) + 3
    assert record["tokenizer"] == str(tmp_path)
    assert [example["segments"][0]["text"] for example in record["examples"]] == ["The fire was small."] * 2
    shown = data(story, "-t", tmp_path).stdout
    assert "tokens in a document" in shown
    assert f"{46 / record['total']['tokens']:.2f} bytes each" in shown


def test_a_field_and_no_example(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "b"}\n')
    result = data(tmp_path / "a.jsonl", "--field", "body", "--examples", "0")
    assert result.exit_code == 0
    assert "learnt: " not in result.stdout
    assert "licences  not stated (1)" in result.stdout


def test_long_examples_show_every_turn(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "a" * 999} for role in ("user", "assistant")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    shown = data(tmp_path / "a.jsonl").stdout
    assert shown.count("characters more)") == 2
    assert shown.count(">>") == 2  # once in the heading


def test_a_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\x1b[2Jb")
    shown = data(tmp_path / "a.txt").stdout
    assert "a[2Jb" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Missing argument 'SOURCE...'"),
        (("nothing.txt",), "There is no nothing.txt"),
        (("story.txt", "-t", "nothing.json"), "There is no tokenizer nothing.json"),
        (("story.txt", "-t", "story.txt"), "story.txt is no tokenizer; give a tokenizer.json"),
        (("story.txt", "--examples", "-1"), "Invalid value for '--examples'"),
        (("",), "Expected the name of a file, a folder or a data set, got nothing."),
    ],
)
def test_mistakes(story: Path, words: tuple[str, ...], sentence: str) -> None:
    done = ingle("data", *words, cwd=story.parent)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_on_a_terminal_the_learnt_text_is_green(chats: Path) -> None:
    with Terminal("data", chats) as terminal:
        assert terminal.wait() == 0
        assert "learnt: in green" in terminal.seen
        assert "\x1b[32mIt is." in terminal.raw


def test_ctrl_c_ends_it_quietly(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"text": "fire"}\n' * 100_000)
    with Terminal("data", *[path] * 500) as terminal:  # minutes of work
        terminal.expect("reading")
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.seen
        assert "documents" not in terminal.seen
