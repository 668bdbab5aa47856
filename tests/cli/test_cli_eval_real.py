"""`ingle eval` with the real runners on a toy model: the seams fit, and a person can stop it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.processes import Terminal, ingle
from ingle.cli import cli
from ingle.evaluate.calls.item import Expected, Item, write_items
from ingle.evaluate.result import EvalResult
from ingle.text.tools import Tool

ALARM = Tool("set_alarm", "Set an alarm.", {"type": "object", "properties": {"time": {"type": "string"}}})


def test_perplexity_and_its_comparison(toy: Path, plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat and the hat. In the end, an owl.\n" * 30)
    for name, model in (("a", toy), ("b", plain)):
        done = ingle("eval", model, "--text", text, "--reference", toy, "--out", tmp_path / f"{name}.json")
        assert done.returncode == 0, done.stderr
    kept = EvalResult.load(tmp_path / "a.json")
    written = (tmp_path / "a.json").read_text()
    assert str(toy.parent) not in written  # a result can be shown to others
    assert str(tmp_path) not in written
    (task,) = kept.results
    assert {"perplexity", "bits_per_byte", "kl", "top1_agreement"} <= {metric.name for metric in task.metrics}
    done = ingle("eval", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    (row,) = json.loads(done.stdout)["comparisons"]
    assert (row["metric"], row["verdict"], row["difference"]) == ("bits_per_byte", "no difference shown", 0)
    assert row["n"] == row["equal_items"] > 1


def test_a_task_of_lm_evaluation_harness(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    rows = [
        {
            "id": str(n),
            "question": f"What comes after {n}?",
            "choices": {"text": [str(n + 1), "a", "the"], "label": ["A", "B", "C"]},
            "answerKey": "A",
        }
        for n in range(8)
    ]
    (tmp_path / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("eval", toy, "--tasks", "arc_easy", "--data", tmp_path, "--limit", "6", "--out", tmp_path / "o.json")
    done = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    (task,) = EvalResult.load(tmp_path / "o.json").results
    assert (len(task.item_ids), len(set(task.item_ids))) == (6, 6)
    assert task.details["chance"] == pytest.approx(1 / 3)
    assert "33.3%" in done.stdout
    again = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert again.stdout == done.stdout
    assert "has 1 of 1 tasks already" in again.stderr


def test_calls(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    items = [
        Item(
            f"alarm-{n}",
            "mine",
            ({"role": "user", "content": f"wake me at {n}"},),
            (ALARM,),
            (Expected("set_alarm", {"time": (str(n),)}),) if n % 2 else (),
        )
        for n in range(3)
    ]
    write_items(tmp_path / "mine.jsonl", items)
    done = ingle("eval", toy, "--items", tmp_path / "mine.jsonl", "--out", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    kept = EvalResult.load(tmp_path / "o.json")
    assert [task.task for task in kept.results] == ["calls_mine", "calls_mine+grammar"]
    assert [task.details["settings"]["grammar"] for task in kept.results] == ["none", "schema"]
    assert "accuracy" in done.stdout


def test_ctrl_c_on_a_terminal(toy: Path, tmp_path: Path) -> None:
    """A bar is shown; Ctrl-C ends it with 130 and a sentence, and what was finished is in the file."""
    short, long = tmp_path / "short.txt", tmp_path / "long.txt"
    short.write_text("The end.\n")
    long.write_text("The cat and the hat. In the end, an owl.\n" * 100_000)
    out = tmp_path / "out.json"
    assert ingle("eval", toy, "--text", short, "--out", out).returncode == 0
    before = out.read_bytes()
    with Terminal("eval", toy, "--text", long, "--out", tmp_path / "other.json") as terminal:
        terminal.expect(r"perplexity .*\d+/\d+")
        terminal.send("\x03")
        terminal.expect("Stopped. What is finished is in")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.seen
    assert not (tmp_path / "other.json").exists()
    assert out.read_bytes() == before
