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
from task_items import data_folder

ALARM = Tool("set_alarm", "Set an alarm.", {"type": "object", "properties": {"time": {"type": "string"}}})
ALONE = ("--threads", "1")  # threads wait for each other, long where other programs compute


def test_perplexity_and_its_comparison(toy: Path, plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat and the hat. In the end, an owl.\n" * 30)
    for name, model in (("a", toy), ("b", plain)):
        done = ingle("eval", model, "--text", text, "--reference", toy, *ALONE, "--out", tmp_path / f"{name}.json")
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
    data_folder(tmp_path, "arc_easy")
    words = (
        "eval",
        toy,
        "--tasks",
        "arc_easy",
        "--data",
        tmp_path,
        "--limit",
        "2",
        "--out",
        tmp_path / "o.json",
        *ALONE,
    )
    done = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    (task,) = EvalResult.load(tmp_path / "o.json").results
    assert (len(task.item_ids), len(set(task.item_ids))) == (2, 2)
    assert task.details["chance"] == pytest.approx((1 / 3 + 1 / 4) / 2)  # of three answers, and of four
    assert "29.2%" in done.stdout
    again = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert again.stdout == done.stdout
    assert "has 1 of 1 tasks already" in again.stderr


def own_items(path: Path) -> Path:
    """Requests to an alarm, in a file: the tool fits some of them."""
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
    write_items(path, items)
    return path


def test_calls(toy: Path, tmp_path: Path) -> None:
    done = ingle("eval", toy, "--items", own_items(tmp_path / "mine.jsonl"), *ALONE, "--out", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    kept = EvalResult.load(tmp_path / "o.json")
    assert [task.task for task in kept.results] == ["calls_mine", "calls_mine+grammar"]
    assert [task.details["settings"]["grammar"] for task in kept.results] == ["none", "schema"]
    assert "accuracy" in done.stdout


def test_ctrl_c_on_a_terminal(toy: Path, tmp_path: Path) -> None:
    """A bar is shown; Ctrl-C ends it with 130 and a sentence, and what was finished is shown and in the file."""
    long, out = tmp_path / "long.txt", tmp_path / "out.json"
    long.write_text("The cat and the hat. In the end, an owl.\n" * 100_000)
    items = own_items(tmp_path / "mine.jsonl")
    words = ("--tasks", "calls,perplexity", "--items", items, "--grammar", "none", "--text", long, "--out", out)
    with Terminal("eval", toy, *words, *ALONE) as terminal:
        bar = terminal.expect(r"\[2/2\] perplexity .*\d+/\d+")
        terminal.send("\x03")
        table = terminal.expect(r"calls_mine +accuracy", after=bar)
        terminal.expect("Stopped. What is finished is in", after=table)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.seen
    assert [task.task for task in EvalResult.load(out).results] == ["calls_mine"]
