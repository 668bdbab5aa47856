"""`ingle eval --compare`: two models, or what is kept of them. The runners are of script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eval_script import Script, fails, run, scores

import toys
from ingle.evaluate.result import EvalResult, ModelInfo


def toy_pair(folder: Path) -> tuple[Path, Path]:
    return toys.toy_gguf(folder / "a.gguf"), toys.toy_gguf(folder / "b.gguf", seed=1)


def test_compare_results_and_models(script: Script, tmp_path: Path, data: Path) -> None:
    a, b = toy_pair(tmp_path)
    words = ("--tasks", "arc_easy,piqa", "--data", data)
    for model in (a, b):
        assert run(model, *words, "--out", model.with_suffix(".json")).exit_code == 0
    files = run("--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert files.exit_code == 0
    models = run("--compare", a, b, *words)
    assert models.stdout == files.stdout
    lines = files.stdout.splitlines()
    assert [line[:2] for line in lines[:2]] == ["A:", "B:"]
    assert lines[4].startswith("arc_easy  acc")
    assert lines[4].endswith("B is better")
    assert "Holm's correction for 2 comparisons" in files.stdout
    assert "could show" in files.stdout
    mixed = run("--compare", tmp_path / "a.json", b, "--tasks", "piqa", "--data", data, "--json")
    record = json.loads(mixed.stdout)
    assert [row["task"] for row in record["comparisons"]] == ["piqa"]


def test_compare_what_a_variant_changes(tmp_path: Path) -> None:
    """The calls of one file, free and within the grammar."""

    def side(free: Sequence[float], bound: Sequence[float]) -> EvalResult:
        results = []
        for ending, values in (("", free), ("+grammar", bound)):
            for task in ("calls_snips", "calls"):
                found = scores("calls", values)  # the same items
                found = replace(found, metrics=(*found.metrics, replace(found.metrics[0], name="intent")))
                details = {"settings": {"grammar": ending or "none"}, "asked": {"task": task}}
                results.append(replace(found, task=task + ending, details=details))
        return EvalResult(ModelInfo("m", "m.gguf", 1, "ab", "llama", 1, 8.0), {}, {}, tuple(results))

    side([1] * 10 + [0] * 30, [1] * 25 + [0] * 15).save(tmp_path / "a.json")
    path = tmp_path / "a.json"
    assert {row["difference"] for row in compared(path, path)} == {0.0}
    rows = compared(path, path, "--variant", "+grammar")
    assert [(row["task"], row["n"]) for row in rows] == [("calls_snips", 40), ("calls", 40)]
    assert all(row["difference"] == pytest.approx(15 / 40) for row in rows)
    assert all(row["verdict"] == "B is better" for row in rows)
    (row,) = compared(path, path, "--variant", "+grammar", "--tasks", "calls_snips")
    assert row["task"] == "calls_snips"
    every = compared(path, path, "--variant", "+grammar", "--all-metrics")
    assert [(row["task"], row["metric"]) for row in every] == [
        (task, metric) for task in ("calls_snips", "calls") for metric in ("acc", "intent")
    ]
    shown = run("--compare", path, path, "--variant", "+grammar").stdout
    assert "calls_snips: A was measured with grammar none, B with +grammar." in shown
    assert "Only A" not in shown
    kept = EvalResult.load(path)
    more = tmp_path / "more.json"
    replace(kept, results=(*kept.results, scores("piqa", [0, 1]))).save(more)
    assert "Only A has piqa." in run("--compare", more, more, "--variant", "+grammar").stdout
    assert run("--compare", more, more, "--tasks", "calls", "--variant", "+grammar").stdout == shown
    for ending in ("+copy", "calls", ""):
        assert "is the ending of no task of B; expected that of one of calls_snips, calls" in fails(
            "--compare", path, path, "--variant", ending
        )


def compared(*words: str | Path) -> list[dict[str, Any]]:
    record = json.loads(run("--compare", *words, "--json").stdout)
    return list(record["comparisons"])


def test_compare_says_what_could_have_been_shown(script: Script, toy: Path, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "same.json"
    done = run("--compare", toy, toy, "--tasks", "piqa", "--data", data, "--out", out)
    assert "no difference shown" in done.stdout
    assert '"No difference shown" is not "equal"' in done.stdout
    assert "A and B are the same model file." in done.stdout
    (row,) = json.loads(out.read_text())["comparisons"]
    assert (row["p_holm"], row["verdict"]) == (1, "no difference shown")
    assert row["detectable"] > 0
    assert "exists" in fails("--compare", toy, toy, "--tasks", "piqa", "--data", data, "--out", out)


def test_what_cannot_be_compared(script: Script, toy: Path, tmp_path: Path, data: Path) -> None:
    for task in ("piqa", "boolq"):
        assert run(toy, "--tasks", task, "--data", data, "--out", tmp_path / f"{task}.json").exit_code == 0
    pair = ("--compare", tmp_path / "piqa.json", tmp_path / "boolq.json")
    assert "no task in common (A: piqa; B: boolq)" in fails(*pair)
    assert "has no result of arc_easy" in fails(*pair, "--tasks", "arc_easy")
    assert "has no result of pica" in fails(*pair, "--tasks", "piqa,pica")
    assert "cannot be read" in fails("--compare", tmp_path / "none.json", tmp_path / "piqa.json")
    assert "none.gguf" in fails("--compare", tmp_path / "none.gguf", toy, "--tasks", "piqa", "--data", data)


def test_what_would_not_be_read(script: Script, toy: Path, tmp_path: Path, data: Path) -> None:
    kept = tmp_path / "piqa.json"
    assert run(toy, "--tasks", "piqa", "--data", data, "--out", kept).exit_code == 0
    for unread in (("--limit", "5"), ("--data", data), ("--threads", "1"), ("--grammar", "both"), ("-c", "64")):
        assert f"measured already; leave out {unread[0]}" in fails("--compare", kept, kept, *unread)
    assert run("--compare", kept, toy, "--tasks", "piqa", "--data", data).exit_code == 0
    assert "leave out --limit, --out" in fails("--list", "--limit", "5", "--out", tmp_path / "list.json")
    assert "model" in fails(toy, "--list")
    assert "--shots is for tasks of lm-evaluation-harness" in fails(
        toy, "--tasks", "calls_snips", "--data", data, "--shots", "2"
    )
