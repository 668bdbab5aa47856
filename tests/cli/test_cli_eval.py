"""`ingle eval`: what is asked of the runners, what is kept, what is said. The runners here are of script."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from eval_script import TASKS, Script, fails, run

from ingle.errors import ContextError
from ingle.evaluate.calls.item import Item, write_items
from ingle.evaluate.result import EvalResult
from ingle.text.tools import Tool


def test_a_table_with_errors(script: Script, toy: Path, data: Path) -> None:
    done = run(toy, "--tasks", "arc_easy,piqa", "--data", data, "--shots", "5", "--limit", "30", "--seed", "3")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Toy (toy.gguf): llama, 0.0M parameters, 32.00 bits each")
    assert lines[2].split() == ["task", "metric", "score", "±", "s.e.", "95%", "interval", "chance", "items", "seconds"]
    assert lines[3].split()[:2] == ["arc_easy", "acc"]
    assert lines[4].split()[-3:] == ["25.0%", "30", "0.5"]
    assert lines[-2:] == ["arc_easy: of arc_easy", "piqa: of piqa"]
    expected = {"data": data, "shots": 5, "limit": 30, "seed": 3}
    assert script.asked == [("arc_easy", expected), ("piqa", expected)]
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["[1/2] arc_easy", "[2/2] piqa"]


def test_data_alone_asks_for_the_set_and_tells_what_is_left_out(script: Script, toy: Path, data: Path) -> None:
    done = run(toy, "--data", data)
    assert script.tasks == list(TASKS)
    assert "winogrande is left out." in done.stderr
    assert "winogrande.jsonl" in done.stderr


def test_a_text_alone_asks_for_perplexity(script: Script, toy: Path, plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.")
    assert run(toy, "--text", text, "--reference", plain, "--out", tmp_path / "o.json").exit_code == 0
    ((_, options),) = script.asked
    assert (options["text"], options["reference"], options["limit"]) == (text, "plain.gguf", None)
    assert run(toy, "--text", text, "--reference", plain, "--out", tmp_path / "o.json").exit_code == 0
    assert len(script.asked) == 1  # it was there
    assert "no reference given" in fails(toy, "--text", text, "--out", tmp_path / "o.json")
    text.write_text("Another text of that name.")
    assert "text_sha256" in fails(toy, "--text", text, "--reference", plain, "--out", tmp_path / "o.json")


def test_calls_of_ones_own(script: Script, toy: Path, tmp_path: Path) -> None:
    items = tmp_path / "mine.jsonl"
    write_items(items, [Item("1", "mine", ({"role": "user", "content": "hello"},), (Tool("greet", "Greet."),))])
    assert run(toy, "--items", items, "--grammar", "none", "--out", tmp_path / "o.json").exit_code == 0
    assert script.asked == [("calls_mine", {"grammar": "none", "limit": None, "n_items": 1})]
    assert [task.task for task in EvalResult.load(tmp_path / "o.json").results] == ["calls_mine"]
    assert run(toy, "--items", items, "--grammar", "none", "--out", tmp_path / "o.json").exit_code == 0
    assert len(script.asked) == 1
    assert "grammar none" in fails(toy, "--items", items, "--out", tmp_path / "o.json")
    write_items(items, [Item("1", "snips", ({"role": "user", "content": "hello"},), ())])
    assert "'snips', a public data set" in fails(toy, "--items", items)


@pytest.fixture
def one_each(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item of each source of calls, whatever is in its files."""

    def items(names: Sequence[str], folder: Path) -> list[Item]:
        assert folder == data
        return [Item("1", name, ({"role": "user", "content": "hello"},), ()) for name in names]

    monkeypatch.setattr("ingle.evaluate.calls.sources.load_items", items)


@pytest.mark.usefixtures("one_each")
def test_calls_of_a_folder(script: Script, toy: Path, data: Path) -> None:
    assert run(toy, "--tasks", "calls", "--data", data).exit_code == 0
    assert run(toy, "--tasks", "calls_snips", "--data", data).exit_code == 0
    assert script.tasks == ["calls_snips", "calls_snips"]
    assert run(toy, "--tasks", "calls_snips,calls", "--data", data).exit_code == 0
    assert len(script.tasks) == 3  # all calls have those of SNIPS
    assert "snips" in fails(toy, "--tasks", "calls_weather", "--data", data)
    assert "slurp_devel.jsonl" in fails(toy, "--tasks", "calls_slurp", "--data", data)
    assert "snips" in fails(toy, "--tasks", "calls", "--data", data.parent)


@pytest.mark.usefixtures("one_each")
def test_spoken_calls_are_one_job_and_each_part_of_bfcl_is_its_own(script: Script, toy: Path, data: Path) -> None:
    """Also where `calls` takes in what is asked for by name."""
    folder = data / "api_calls"
    (folder / "bfcl" / "possible_answer").mkdir(parents=True)
    simple = "BFCL_v4_simple_python.json"
    files = (
        "hwu64_kfold1_train.json",
        f"bfcl/{simple}",
        f"bfcl/possible_answer/{simple}",
        "bfcl/BFCL_v4_irrelevance.json",
    )
    for file in files:
        (folder / file).touch()
    for names in ("calls", "calls_hwu64,calls_bfcl_simple,calls"):
        script.asked.clear()
        assert run(toy, "--tasks", names, "--data", data).exit_code == 0
        assert sorted(script.tasks) == ["calls_bfcl_irrelevance", "calls_bfcl_simple", "calls_hwu64_snips"]


def test_the_file_is_written_after_each_task_and_gone_on_with(
    script: Script, toy: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"

    def interrupt() -> None:
        assert [task.task for task in EvalResult.load(out).results] == ["arc_easy"]
        raise KeyboardInterrupt

    script.acts["boolq"] = interrupt
    words = (toy, "--tasks", "mobilellm", "--data", data, "--out", out, "--limit", "10")
    stopped = run(*words)
    assert stopped.exit_code == 130
    assert "arc_easy" in stopped.stdout
    assert "boolq" not in stopped.stdout
    assert f"is in {out}" in stopped.stderr
    del script.acts["boolq"]
    done = run(*words)
    assert done.exit_code == 0
    assert script.tasks == ["arc_easy", "boolq", "boolq", "piqa"]
    assert "has 1 of 3 tasks already" in done.stderr
    kept = EvalResult.load(out)
    assert [task.task for task in kept.results] == list(TASKS)
    assert kept.settings == {"limit": 10, "seed": 0, "backend": "native", "context": 256}
    assert kept.model.file == "toy.gguf"
    assert set(kept.versions) >= {"ingle", "python", "numpy"}
    assert run(*words).exit_code == 0
    assert len(script.tasks) == 4  # nothing was left to do


def test_what_an_interrupted_person_is_told(script: Script, toy: Path, data: Path, tmp_path: Path) -> None:
    """Where the finished tasks are, and nothing of a file that was never written."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    script.acts["boolq"] = interrupt
    out = tmp_path / "out.json"
    for words in ((), ("--out", out)):
        stopped = run(toy, "--tasks", "boolq,piqa", "--data", data, *words)
        assert (stopped.exit_code, stopped.stdout) == (130, "")
        assert "Stopped. No task was finished, so there is nothing to keep.\n" in stopped.stderr
        assert str(out) not in stopped.stderr
    assert not out.exists()
    shown = run(toy, "--tasks", "arc_easy,boolq", "--data", data)
    assert shown.exit_code == 130
    assert "arc_easy" in shown.stdout
    assert "Stopped. What is finished was shown.\n" in shown.stderr


def test_what_other_versions_measured_is_told(script: Script, toy: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = (toy, "--data", data, "--out", out, "--tasks")
    assert run(*words, "piqa").exit_code == 0
    assert run(*words, "boolq").exit_code == 0
    kept = EvalResult.load(out)
    assert [task.notes for task in kept.results] == [("of piqa",), ("of boolq",)]
    replace(kept, versions={**kept.versions, "numpy": "1.0", "python": "3.0"}).save(out)
    assert run(*words, "piqa,arc_easy").exit_code == 0
    later = EvalResult.load(out)
    assert later.results[:2] == kept.results
    python, numpy = kept.versions["python"], kept.versions["numpy"]
    assert later.results[2].notes[1:] == (
        f"Measured with python {python}, numpy {numpy}, unlike what the file was begun with.",
    )


def test_a_result_of_something_else_is_not_gone_on_with(
    script: Script, toy: Path, plain: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    words = ("--tasks", "piqa", "--data", data, "--out", out)
    assert run(toy, *words).exit_code == 0
    before = out.read_bytes()
    assert "another model (Toy, toy.gguf)" in fails(plain, *words)
    assert "no limit given, and this asks for limit 5" in fails(toy, *words, "--limit", "5")
    assert "context 256" in fails(toy, *words, "--context", "128")
    assert "no kv_type given, and this asks for kv_type q8" in fails(toy, *words, "--kv-type", "q8")
    assert "has piqa with no shots given, and this asks for shots 2" in fails(toy, *words, "--shots", "2")
    assert out.read_bytes() == before
    out.write_text("{}")
    assert "no result of ingle eval" in fails(toy, *words)


def test_a_task_that_fails_leaves_the_others(script: Script, toy: Path, data: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise ContextError("The answers do not fit.")

    script.acts["boolq"] = fail
    done = run(toy, "--data", data, "--out", tmp_path / "out.json")
    assert done.exit_code == 2
    assert "1 of 3 tasks could not be measured. boolq: The answers do not fit." in done.stderr
    assert [task.task for task in EvalResult.load(tmp_path / "out.json").results] == ["arc_easy", "piqa"]
    assert "piqa" in done.stdout
    assert fails(toy, "--tasks", "boolq", "--data", data) == "ingle: The answers do not fit.\n"


def test_a_record_without_items(script: Script, toy: Path, data: Path) -> None:
    record = json.loads(run(toy, "--tasks", "piqa", "--data", data, "--json").stdout)
    (task,) = record["results"]
    assert task["metrics"][0].keys() == {"name", "value", "stderr", "n", "higher_is_better"}
    assert task["details"] == {
        "chance": 0.25,
        "asked": {"task": "piqa", "settings": {"shots": None, "data": "piqa.jsonl"}},
    }
    assert "item_ids" not in task


def test_pictures(script: Script, toy: Path, tmp_path: Path, data: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("--tasks", "piqa", "--data", data)
    assert run(toy, *words, "--picture", tmp_path / "scores.png").exit_code == 0
    assert run("--compare", toy, toy, *words, "--picture", tmp_path / "differences.png").exit_code == 0
    for name in ("scores.png", "differences.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ([], "Say what to measure"),
        (["--tasks", "arc_easy,,piqa"], "empty name"),
        (["--tasks", "perplexity"], "--text FILE"),
        (["--tasks", "piqa", "--text", "TOY"], "add it to --tasks"),
        (["--tasks", "piqa", "--items", "TOY"], "add it to --tasks"),
        (["--tasks", "piqa", "--reference", "TOY"], "--reference is for the task perplexity"),
        (["--text", "TMP"], "is no file"),
        (["--data", "TOY"], "is no folder"),
        (["--data", "TMP"], "arc_easy is left out"),
        (["--data", "TMP", "--tasks", "piqa"], "has no data of piqa"),
        (["--data", "TMP", "--tasks", "../piqa"], "no name of a task"),
        (["--tasks", "calls"], "--items FILE"),
        (["--tasks", "piqa", "--out", "TMP"], "is a directory"),
        (["--tasks", "piqa", "--out", "TMP/none/out.json"], "does not exist"),
        (["--tasks", "piqa", "--picture", "TMP/p.jpg"], ".png"),
        (["--tasks", "piqa", "--all-metrics"], "--all-metrics is for --compare"),
        (["--tasks", "piqa", "--variant", "+grammar"], "--variant is for --compare"),
        (["--compare", "TOY", "TOY"], "--compare takes the two"),
        (["--limit", "0"], "--limit"),
        (["--grammar", "latin"], "latin"),
    ],
)
def test_what_cannot_be_asked(script: Script, toy: Path, tmp_path: Path, words: list[str], about: str) -> None:
    given = [word.replace("TOY", str(toy)).replace("TMP", str(tmp_path)) for word in words]
    assert about in fails(toy, *given)
    assert not script.asked


def test_packages_that_are_not_installed(
    script: Script, toy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingle.cli.eval_jobs.find_spec", lambda name: None)
    message = fails(toy, "--tasks", "piqa", "--data", data, "--picture", tmp_path / "p.png")
    assert "(lm_eval, matplotlib): pip install 'ingle[eval]'" in message
    pair = ("--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "(matplotlib)" in fails(*pair, "--picture", tmp_path / "p.png")
    text = tmp_path / "text.txt"
    text.write_text("Once.")
    assert run(toy, "--text", text).exit_code == 0  # which needs none of them


def test_the_list(data: Path) -> None:
    rows = json.loads(run("--list", "--data", data, "--json").stdout)["tasks"]
    found = {row["task"]: row for row in rows}
    assert {name for name, row in found.items() if row["here"]} == {*TASKS, "calls_snips"}
    assert found["arc_easy"]["sets"] == ["mobilellm", "melt"]
    assert found["winogrande"]["data"] is None
    shown = run("--list", "--data", data).stdout
    assert "no winogrande.jsonl" in shown
    assert run("--list").exit_code == 0
    assert "is no folder" in fails("--list", "--data", data / "piqa.jsonl")


def test_help_and_list_load_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from ingle.cli import cli; "
        "assert CliRunner().invoke(cli, ['eval', *sys.argv[1:]]).exit_code == 0; print(*sys.modules)"
    )
    for word in ("--help", "--list"):
        loaded = subprocess.run(
            [sys.executable, "-c", script, word], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"torch", "lm_eval", "datasets", "matplotlib", "scipy", "transformers", "ingle._core"} & set(loaded)


def test_a_narrow_terminal_leaves_nothing_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from ingle.cli.eval_view import print_table
    from ingle.evaluate.table import Table

    rows = (("task_with_a_long_name", "acc", "42.0%", "B is better"), ("", "f1", "43.0%", "no difference shown"))
    table = Table(("task", "metric", "score", "verdict"), rows, frozenset((0, 1, 3)))
    for width in (30, 100):
        monkeypatch.setattr(
            "ingle.cli.eval_view.console", lambda width=width: Console(force_terminal=True, width=width)
        )
        print_table(table)
        shown = capsys.readouterr().out
        for cell in ("task_with_a_long_name", "acc", "42.0%", "B is better", "f1", "43.0%", "no difference shown"):
            assert cell in " ".join(shown.split())
        assert ("score 42.0%" in shown) == (width == 30)
        assert all(len(line) <= 30 for line in shown.splitlines()) or width == 100
