"""Results as rows of text, and as pictures."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from ingle.evaluate.compare import compare
from ingle.evaluate.result import EvalResult, Metric, ModelInfo, TaskResult
from ingle.evaluate.statistics import binomial_stderr, wilson_interval
from ingle.evaluate.table import (
    comparison_table,
    difference_text,
    error_text,
    interval_of,
    score_table,
    value_text,
)

MODEL = ModelInfo("tiny", "tiny.gguf", 1, "aa", "llama", 12_300_000, 8.5)


def hits(name: str, right: int, n: int, **details: object) -> TaskResult:
    values = (1.0,) * right + (0.0,) * (n - right)
    metric = Metric("acc", right / n, binomial_stderr(right / n, n), n, values=values)
    return TaskResult(name, (metric,), tuple(map(str, range(n))), 1.5, details=details)


def bits(shift: float = 0.0) -> TaskResult:
    values = tuple(1 + i % 7 / 100 + shift for i in range(30))
    mean = sum(values) / 30
    metrics = (Metric("bits_per_byte", mean, 0.012, 30, False, values), Metric("perplexity", 12345.6, None, 30, False))
    return TaskResult("perplexity", metrics, tuple(map(str, range(30))), 61.0)


def test_rows_of_scores() -> None:
    table = score_table(EvalResult(MODEL, results=(hits("arc", 8, 20, chance=0.25), bits())))
    assert table.rows == (
        ("arc", "acc", "40.0%", "11.2", "21.9 .. 61.3", "25.0%", "20", "1.5"),
        ("perplexity", "bits_per_byte", "1.028", "0.012", "1.005 .. 1.052", "", "30", "61.0"),
        ("", "perplexity", "12,346", "", "", "", "30", ""),
    )


def test_rows_of_comparisons() -> None:
    a = EvalResult(MODEL, results=(hits("arc", 8, 20), bits()))
    b = EvalResult(MODEL, results=(hits("arc", 18, 20), bits(-0.01)))
    table = comparison_table(compare(a, b))
    first, second = table.rows
    assert first[:6] == ("arc", "acc", "20", "40.0%", "90.0%", "+50.0")
    assert first[7:] == ("0.002", "35.6", "B is better")
    assert second[:7] == ("perplexity", "bits_per_byte", "30", "1.028", "1.018", "-0.0100", "-0.0100 .. -0.0100")
    assert second[7] == "< 0.001"
    assert all(len(row) == len(table.titles) for row in table.rows)


def test_what_is_shown_in_percent() -> None:
    assert Metric("acc", 0.5, None, 2, values=(1.0, float("nan"))).is_share
    assert Metric("acc", 1.0000000000000002, None, 2).is_share
    assert Metric("f1", 0.5, None, 2, values=(-1.0, 2.0)).is_share  # what each item adds to a ratio
    assert Metric("wrong_refusal", 0.5, None, 2, False, (0.0, 1.0, float("nan"))).is_share
    assert not Metric("kl", 0.5, None, 2, False, (0.25, 0.75)).is_share
    assert not Metric("kl", 0.5, None, 2, False).is_share
    assert not Metric("kl", 0.0, None, 2, False, (0.0, 0.0)).is_share
    assert Metric("wrong_refusal", 0.0, 0.0, 2, False, (0.0, 0.0), counts=True).is_share
    assert not Metric("score", 1.5, None, 2).is_share
    assert not Metric("acc", float("nan"), None, 0).is_share


def test_intervals_of_metrics() -> None:
    task = hits("arc", 0, 20)
    assert interval_of(task, task.metrics[0]) == wilson_interval(0, 20)
    wide = Metric("acc", 0.5, 0.4, 4, values=(1.0, 1.0, 0.0, 0.0))  # not the error of items that are independent
    found = interval_of(TaskResult("t", (wide,), tuple("abcd")), wide)
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)
    for loss, low in ((Metric("ppl", 5.0, 4.0, 3, False), 0.0), (Metric("logprob", -5.0, 4.0, 3), -12.8)):
        interval = interval_of(TaskResult("t", (loss,)), loss)
        assert interval is not None
        assert interval.low == pytest.approx(low, abs=0.05)
    for metric in (Metric("m", 0.5, None, 2), Metric("m", 0.5, float("nan"), 1), Metric("m", float("inf"), 0.1, 2)):
        assert interval_of(TaskResult("t", (metric,)), metric) is None


def test_figures_as_text() -> None:
    values = (0.0, 1.23456, -123.456, 1234567.8, 0.0000123456, 0.00000123456, float("inf"), float("nan"))
    shown = ["0", "1.235", "-123.5", "1,234,568", "0.00001235", "1.235e-06", "infinite", "-"]
    assert [value_text(value, False) for value in values] == shown
    assert [error_text(value, False) for value in (0.0, 17.4, 2.04e5, 0.0123)] == ["0", "17", "204,000", "0.012"]
    assert [difference_text(value, False) for value in (0.0521, -1500.0)] == ["+0.0521", "-1,500"]
    assert difference_text(-0.0123, True) == "-1.2"
    assert error_text(float("nan"), True) == "-"


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize("n_tasks", [0, 1, 2, 12])
def test_pictures_are_drawn_without_a_warning(n_tasks: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from ingle.evaluate.picture import draw_comparison, draw_scores

    strange = (
        Metric("ppl", float("inf"), None, 3, False),
        Metric("nothing", float("nan"), float("nan"), 0),
        Metric("logprob", -3.5, 0.2, 3),
        Metric("zero", 0.0, 0.0, 3),
    )
    tasks = [hits(f"task_{i}", i, 20, chance=0.25) for i in range(n_tasks)]
    a = EvalResult(MODEL, results=(*tasks, TaskResult("strange", strange)))
    heights = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result in (a, EvalResult(MODEL, results=tuple(tasks))):
            draw_scores(result, tmp_path / "scores.png")
            heights.append(size_of(tmp_path / "scores.png")[1])
        b = EvalResult(MODEL, results=(hits("task_0", 18, 20), bits()))
        draw_comparison(compare(EvalResult(MODEL, results=(hits("task_0", 2, 20), bits())), b), tmp_path / "c.png")
        named = replace(a, model=replace(MODEL, name="a $x^$ b", file="$$.gguf"))  # that would be no formula
        draw_scores(named, tmp_path / "scores.png")
        draw_comparison(compare(named, b) if n_tasks else compare(b, b), tmp_path / "c.png")
    assert heights[0] > heights[1] > 100
    assert size_of(tmp_path / "c.png")[0] > 1000
    assert sorted(child.name for child in tmp_path.iterdir()) == ["c.png", "scores.png"]
