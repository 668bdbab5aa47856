"""Two results side by side: what is paired, what is refused, and what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ingle.errors import UsageError
from ingle.evaluate.compare import Report, compare
from ingle.evaluate.result import EvalResult, Metric, ModelInfo, TaskResult
from ingle.evaluate.statistics import mcnemar

A = ModelInfo("a", "a.gguf", 1, "aa", "llama", 10, 4.0)
B = ModelInfo("b", "b.gguf", 1, "bb", "llama", 10, 4.0)


def task(
    name: str, values: Sequence[float], ids: Sequence[str] | None = None, metric: str = "acc", **details: Any
) -> TaskResult:
    numbers = [float(value) for value in values]
    known = [value for value in numbers if value == value]
    found = Metric(metric, float(np.mean(known)), 0.1, len(known), values=tuple(numbers))
    return TaskResult(name, (found,), tuple(ids or (f"item {i}" for i in range(len(numbers)))), details=details)


def of(a: TaskResult | Sequence[TaskResult], b: TaskResult | Sequence[TaskResult], **options: Any) -> Report:
    ours, theirs = ((side,) if isinstance(side, TaskResult) else tuple(side) for side in (a, b))
    return compare(EvalResult(A, results=ours), EvalResult(B, results=theirs), **options)


def test_hits_and_misses_by_hand() -> None:
    """10 both right, 2 only A, 12 only B, 6 neither."""
    right_a = [1] * 10 + [1] * 2 + [0] * 12 + [0] * 6
    right_b = [1] * 10 + [0] * 2 + [1] * 12 + [0] * 6
    (row,) = of(task("t", right_a), task("t", right_b)).comparisons
    assert (row.n, row.equal_items, row.test) == (30, 16, "McNemar, exact")
    assert (row.a, row.b, row.difference) == pytest.approx((12 / 30, 22 / 30, 10 / 30))
    assert row.p == row.p_holm == mcnemar(2, 12) == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert row.interval.low < 1 / 3 < row.interval.high
    assert row.interval.low > 0
    assert row.verdict == "B is better"


def test_the_verdict_knows_which_way_is_better_and_which_side_is_which() -> None:
    low, high = np.zeros(40), np.ones(40)
    assert of(task("t", high), task("t", low)).comparisons[0].verdict == "A is better"
    loss = [
        TaskResult("t", (Metric("nll", float(v.mean()), 0.1, 40, False, tuple(v)),), tuple(map(str, range(40))))
        for v in (low + np.arange(40) / 100, high + np.arange(40) / 90)
    ]
    assert of(loss[0], loss[1]).comparisons[0].verdict == "A is better"
    assert of(loss[1], loss[0]).comparisons[0].verdict == "B is better"


def test_no_difference_shown_says_what_could_have_been() -> None:
    right = np.arange(200) < 90
    (row,) = of(task("t", right), task("t", right ^ (np.abs(np.arange(200) - 90) <= 20))).comparisons
    assert row.verdict == "no difference shown"
    assert 0.06 < row.detectable < 0.12  # 2.8 standard errors of about sqrt(0.2 / 200)
    (same,) = of(task("t", right), task("t", right)).comparisons
    assert (same.difference, same.p, same.equal_items) == (0, 1, 200)
    assert 0 < same.detectable < row.detectable


def test_items_are_paired_by_id_in_whatever_order() -> None:
    ids = [f"q{i}" for i in range(50)]
    values = [i % 2 for i in range(50)]
    order = np.random.default_rng(1).permutation(50)[:40]
    shuffled = task("t", [values[i] for i in order], [ids[i] for i in order])
    report = of(task("t", values, ids), shuffled)
    assert (report.comparisons[0].n, report.comparisons[0].equal_items) == (40, 40)
    assert report.notes == ("t: compared on the 40 items that both have, of 50 in A and 40 in B.",)


def test_an_item_that_is_there_twice() -> None:
    (row,) = of(task("t", [1, 0, 1], ["x", "x", "y"]), task("t", [1, 0, 0], ["x", "x", "z"])).comparisons
    assert (row.n, row.equal_items) == (2, 2)


@pytest.mark.parametrize(
    ("a", "b", "about"),
    [
        (task("t", [1, 0]), task("u", [1, 0]), "no task in common"),
        ((), task("u", [1, 0]), "A: none; B: u"),
        (task("t", [1, 0], ["p", "q"]), task("t", [1, 0], ["r", "s"]), "other questions"),
        (TaskResult("t", (Metric("acc", 0.5, 0.1, 2),)), task("t", [1, 0]), "A has no figures of single items"),
        (task("t", [1, 0]), TaskResult("t", (Metric("acc", 0.5, 0.1, 2),)), "B has no figures of single items"),
        (task("t", [1, 0]), task("t", [1, 0], metric="f1"), "no metric in common"),
        (task("t", [1, float("nan")]), task("t", [float("nan"), 1]), "no metric in common"),
    ],
)
def test_what_cannot_be_paired_is_refused(a: Any, b: Any, about: str) -> None:
    with pytest.raises(UsageError, match=about):
        of(a, b)


def test_a_task_that_cannot_be_paired_is_named_beside_those_that_can() -> None:
    report = of(
        [task("t", [1, 0]), task("u", [1, 0], ["p", "q"]), task("v", [1, 1])],
        [task("t", [1, 0]), task("u", [1, 0], ["r", "s"]), task("w", [1, 1])],
    )
    assert [row.task for row in report.comparisons] == ["t"]
    assert report.notes[:2] == ("Only A has v.", "Only B has w.")
    assert report.notes[2].startswith("u cannot be compared")


def test_holm_over_the_tasks() -> None:
    a = [task(name, [0] * 20) for name in "tuv"]
    b = [task("t", [1] * 7 + [0] * 13), task("u", [1] * 6 + [0] * 14), task("v", [0] * 20)]
    rows = of(a, b).comparisons
    assert [row.p for row in rows] == pytest.approx([2 / 2**7, 2 / 2**6, 1])
    assert [row.p_holm for row in rows] == pytest.approx([6 / 2**7, 4 / 2**6, 1])
    assert [row.verdict for row in rows] == ["B is better", "no difference shown", "no difference shown"]
    assert of(a[1], b[1]).comparisons[0].verdict == "B is better"  # alone it would do
    assert of(a[1], b[1]).comparisons[0].detectable < rows[1].detectable


def weighted(values: Sequence[float], weights: Sequence[float]) -> TaskResult:
    bits = Metric("bits_per_byte", float(np.average(values, weights=weights)), 0.1, 3, False, tuple(values))
    perplexity = Metric("perplexity", 2.0**bits.value, 0.1, 3, False, tuple(values))
    ids = tuple(map(str, range(len(values))))
    return TaskResult("t", (perplexity, bits), ids, details={"weights": {"bits_per_byte": list(weights)}})


def test_weights_and_what_is_no_mean_of_its_items() -> None:
    """The perplexity of a text is not the mean of its documents'; the bits per byte are, weighted by bytes."""
    sizes = np.random.default_rng(3).integers(10, 1000, 30).tolist()
    values = np.random.default_rng(4).normal(1.5, 0.1, 30)
    (row,) = of(weighted(values, sizes), weighted(values - 0.01, sizes)).comparisons
    assert (row.metric, row.verdict) == ("bits_per_byte", "B is better")
    assert row.difference == pytest.approx(-0.01)
    assert (row.interval.low, row.interval.high) == pytest.approx((-0.01, -0.01))
    assert row.a == pytest.approx(np.average(values, weights=sizes))
    plain = task("t", values.tolist(), list(map(str, range(30))), "bits_per_byte")
    plain = replace(plain, metrics=(replace(plain.metrics[0], higher_is_better=False),))
    with pytest.raises(UsageError, match="no metric in common"):
        of(weighted(values, sizes), weighted(values, sizes[::-1]))
    for a, b in ((weighted(values, sizes), plain), (plain, weighted(values, sizes))):
        with pytest.raises(UsageError, match="no metric in common"):
            of(a, b)


@pytest.mark.parametrize(
    "weights", [None, [1.0], ["x"] * 5, [-1.0] * 5, [0.0] * 5, [float("inf")] * 5, [True] * 5, [10**400] * 5]
)
def test_weights_that_are_none_are_not_used(weights: Any) -> None:
    details = {"weights": {"acc": weights}}
    (row,) = of(task("t", [1, 0, 1, 1, 0], **details), task("t", [1, 0, 1, 1, 0])).comparisons
    assert row.test == "McNemar, exact"


def test_items_that_a_metric_does_not_concern() -> None:
    nan = float("nan")
    report = of(task("t", [1, nan, 0, 1, nan]), task("t", [1, nan, 0, nan, 1]))
    assert report.comparisons[0].n == 2
    assert report.notes == ("t: acc leaves out 2 items where only one model has it.",)


def test_nothing_is_said_of_metrics_that_are_not_compared() -> None:
    nan = float("nan")

    def two(values: list[float]) -> TaskResult:
        found = [Metric("acc", 0.5, 0.1, 2, values=(1, 0)), Metric("valid", 1.0, 0.1, 2, values=tuple(values))]
        return TaskResult("t", tuple(found), ("p", "q"))

    a, b = two([1, nan]), two([1, 1])
    assert of(a, b).notes == ()
    assert of(a, b, all_metrics=True).notes == ("t: valid leaves out 1 items where only one model has it.",)


def test_all_metrics() -> None:
    def two(values: list[float]) -> TaskResult:
        metrics = [Metric(name, float(np.mean(values)), 0.1, 4, values=tuple(values)) for name in ("acc", "f1")]
        return TaskResult("t", tuple(metrics), tuple("abcd"))

    assert [row.metric for row in of(two([1, 0, 1, 1]), two([1, 1, 1, 1])).comparisons] == ["acc"]
    rows = of(two([1, 0, 1, 1]), two([1, 1, 1, 1]), all_metrics=True).comparisons
    assert [row.metric for row in rows] == ["acc", "f1"]


def test_settings_that_differ_are_told() -> None:
    def side(model: ModelInfo, shots: int, grammar: str) -> EvalResult:
        asked = {"task": "calls", "settings": {"grammar": "both", "items_sha256": "ab"}}
        result = task("calls_snips", [1, 0], settings={"grammar": grammar}, asked=asked)
        return EvalResult(model, {"shots": shots, "limit": shots}, {}, (result,))

    report = compare(side(A, 0, "none"), side(A, 5, "both"))
    assert report.notes == (
        "A and B are the same model file.",
        "A was measured with shots 0, B with 5.",
        "calls_snips: A was measured with grammar none, B with both.",
    )


def test_other_prompts_are_told_where_no_setting_tells_them() -> None:
    told = of(task("t", [1, 0], prompts="p"), task("t", [1, 0], prompts="q")).notes
    assert len(told) == 1
    assert "t: A and B were asked in other words" in told[0]
    assert of(task("t", [1, 0], prompts="p"), task("t", [1, 0], prompts="p")).notes == ()
    shots = [task("t", [1, 0], prompts=str(n), settings={"shots": n}) for n in (0, 5)]
    assert of(*shots).notes == ("t: A was measured with shots 0, B with 5.",)
    assert "other words" not in "".join(of(task("t", [1, 0], prompts="p"), task("t", [1], prompts="q")).notes)


def test_the_record_is_json() -> None:
    report = of([task("t", [1]), task("u", [0.5, 0.25])], [task("t", [0]), task("u", [0.5, 0.5])])
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["a"]["model"]["name"] == "a"
    assert record["comparisons"][0]["verdict"] == "no difference shown"
    assert len(record["comparisons"][1]["interval"]) == 2
    alone = of(task("u", [0.5]), task("u", [0.25])).comparisons[0].to_dict()
    assert (alone["interval"], alone["detectable"]) == ([None, None], None)
