"""Which of two models is better, task by task, from the items that both were measured on.

Both saw the same items, so they are compared item by item: what is hard for one is mostly hard for the other, and a
paired test sees differences that two separate error bars hide. Hits and misses get McNemar's exact test, everything
else a permutation of signs; the intervals are those of Agresti and Min, or a paired bootstrap. Holm's correction makes
up for the number of tasks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ingle.errors import UsageError
from ingle.evaluate.result import EvalResult, Metric, TaskResult
from ingle.evaluate.statistics import (
    Interval,
    bootstrap_interval,
    detectable,
    holm,
    matched_interval,
    matched_stderr,
    mcnemar,
    ratio_stderr,
    sign_flip,
)

__all__ = ["ALPHA", "Comparison", "Report", "compare"]

ALPHA = 0.05
Verdict = Literal["A is better", "B is better", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one task, on the n items that both have. difference: b - a, with its 95% interval.

    p: two-sided, of this metric alone; p_holm: corrected for all that were compared. verdict: at a p_holm below 0.05.
    detectable: the smallest true difference that this test would have shown in 4 of 5 such samples.
    equal_items: items on which both have the very same value. is_share: the figures are read in percent.
    """

    task: str
    metric: str
    higher_is_better: bool
    is_share: bool
    n: int
    a: float
    b: float
    difference: float
    interval: Interval
    p: float
    p_holm: float
    verdict: Verdict
    detectable: float
    equal_items: int
    test: str

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types; a figure that there is not is None."""
        record = asdict(self)
        record["interval"] = [self.interval.low, self.interval.high]
        return {name: _finite(value) for name, value in record.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """All comparisons of two results, and what a reader must know about them."""

    a: EvalResult
    b: EvalResult
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        sides = {
            name: {"model": asdict(side.model), "settings": dict(side.settings)}
            for name, side in (("a", self.a), ("b", self.b))
        }
        rows = [comparison.to_dict() for comparison in self.comparisons]
        return {**sides, "alpha": ALPHA, "comparisons": rows, "notes": list(self.notes)}


def compare(a: EvalResult, b: EvalResult, *, all_metrics: bool = False, seed: int = 0) -> Report:
    """Compare two results on the items that both have.

    Each task is compared by its first metric that both have item by item; with `all_metrics`, by each of those.
    Raises UsageError, which says why, when nothing in the two can be paired.
    """
    notes = _settings_notes(a, b)
    found: list[_Paired] = []
    problems: list[str] = []
    for task in a.results:
        other = b.task(task.task)
        if other is None:
            continue
        try:
            pair = _Pairing(task, other)
            found += pair.metrics(None if all_metrics else 1)
            notes += [*pair.notes, *_details_notes(task, other)]
        except UsageError as error:
            problems.append(str(error))
    if not found:
        tasks = [", ".join(result.task for result in side.results) or "none" for side in (a, b)]
        nothing = f"A and B have no task in common (A: {tasks[0]}; B: {tasks[1]}); evaluate both with the same --tasks."
        raise UsageError(problems[0] if problems else nothing)
    for name, only in (("A", _only(a, b)), ("B", _only(b, a))):
        if only:
            notes.append(f"Only {name} has {', '.join(only)}.")
    tests = [_test(pair, seed) for pair in found]
    corrected = holm([p for _, p, _, _ in tests])
    rows = [
        _comparison(pair, test, p_holm, len(found)) for pair, test, p_holm in zip(found, tests, corrected, strict=True)
    ]
    return Report(a, b, tuple(rows), tuple(notes + problems))


@dataclass(frozen=True, slots=True)
class _Paired:
    """A metric's values in A and in B, both [n], item by item; weights [n], where they matter."""

    task: str
    metric: Metric
    is_share: bool
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    weights: NDArray[np.float64] | None

    def mean(self, values: NDArray[np.float64]) -> float:
        return float(np.average(values, weights=self.weights))


class _Pairing:
    """Which item of one result is which of the other. Raises UsageError where they have none in common."""

    def __init__(self, a: TaskResult, b: TaskResult) -> None:
        self.a, self.b = a, b
        if not a.item_ids or not b.item_ids:
            side = "A" if not a.item_ids else "B"
            raise UsageError(f"{a.task} cannot be compared: {side} has no figures of single items; evaluate it again.")
        place = {key: at for at, key in enumerate(_keys(b.item_ids))}
        both = [(at, place[key]) for at, key in enumerate(_keys(a.item_ids)) if key in place]
        if not both:
            raise UsageError(
                f"{a.task} cannot be compared: A and B have no item in common, so they were asked other questions; "
                "evaluate both with the same data."
            )
        self.at_a, self.at_b = (np.array(column, np.intp) for column in zip(*both, strict=True))
        self.notes: list[str] = []
        if len(both) < max(len(a.item_ids), len(b.item_ids)):
            self.notes.append(
                f"{a.task}: compared on the {len(both):,} items that both have, of {len(a.item_ids):,} in A and "
                f"{len(b.item_ids):,} in B."
            )

    def metrics(self, most: int | None) -> list[_Paired]:
        """The first `most` metrics, or all, that are the mean of their items' values in both."""
        found: list[_Paired] = []
        for metric in self.a.metrics:
            if len(found) == most:
                break
            other = self.b.metric(metric.name)
            if other is not None and metric.values and other.values:
                pair = self._pair(metric, other)
                if pair is not None:
                    found.append(pair)
        if not found:
            raise UsageError(
                f"{self.a.task} cannot be compared: A and B have no metric in common with a figure for each item."
            )
        return found

    def _pair(self, metric: Metric, other: Metric) -> _Paired | None:
        if metric.higher_is_better != other.higher_is_better:
            return None
        if not (_is_mean(self.a, metric) and _is_mean(self.b, other)):
            return None
        weights = _weights(self.a, metric.name)
        others = _weights(self.b, metric.name)
        if (weights is None) != (others is None):
            return None
        if weights is not None and others is not None and (weights[self.at_a] != others[self.at_b]).any():
            return None  # weights that are a model's own, such as its tokens, make means of different things
        x, y = np.array(metric.values)[self.at_a], np.array(other.values)[self.at_b]
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return None
        uneven = int((np.isfinite(x) != np.isfinite(y)).sum())
        if uneven:
            self.notes.append(f"{self.a.task}: {metric.name} leaves out {uneven:,} items where only one model has it.")
        picked = None if weights is None else weights[self.at_a][known]
        is_share = metric.is_share or other.is_share
        return _Paired(self.a.task, metric, is_share, x[known], y[known], picked)


def _keys(item_ids: tuple[str, ...]) -> list[tuple[str, int]]:
    """Each id, and how often it has come before: an item that a set has twice is paired with its own likeness."""
    seen: Counter[str] = Counter()
    keys = []
    for item in item_ids:
        keys.append((item, seen[item]))
        seen[item] += 1
    return keys


def _weights(task: TaskResult, name: str) -> NDArray[np.float64] | None:
    """The weights that the details give the items in the mean of this metric, if there are any and they are sound."""
    columns, n = task.details.get("weights"), len(task.item_ids)
    values = columns.get(name) if isinstance(columns, Mapping) else None
    if not isinstance(values, list) or len(values) != n:
        return None
    if not all(type(value) in (int, float) and 0 < value < 1e300 for value in values):
        return None
    return np.array(values, np.float64)


def _is_mean(task: TaskResult, metric: Metric) -> bool:
    """Whether a metric's value follows from its items' values as their (weighted) mean; perplexity's does not."""
    values, weights = np.array(metric.values), _weights(task, metric.name)
    known = np.isfinite(values)
    if not known.any():
        return False
    mean = np.average(values[known], weights=None if weights is None else weights[known])
    return bool(abs(mean - metric.value) <= 1e-6 * max(1.0, abs(mean)))


def _test(pair: _Paired, seed: int) -> tuple[Interval, float, float, str]:
    """(interval of the difference, p, standard error of the difference, name of the test)."""
    hits = np.isin(pair.a, (0, 1)).all() and np.isin(pair.b, (0, 1)).all()
    if hits and pair.weights is None:
        only_a, only_b = int((pair.a > pair.b).sum()), int((pair.b > pair.a).sum())
        n = len(pair.a)
        interval = matched_interval(only_a, only_b, n)
        return interval, mcnemar(only_a, only_b), matched_stderr(only_a, only_b, n), "McNemar, exact"
    weights = np.ones_like(pair.a) if pair.weights is None else pair.weights
    sums, totals = weights * (pair.b - pair.a), weights
    interval = bootstrap_interval(sums, totals, seed=seed)
    return interval, sign_flip(sums, seed), ratio_stderr(sums, totals), "sign flips of items"


def _comparison(pair: _Paired, test: tuple[Interval, float, float, str], p_holm: float, n_compared: int) -> Comparison:
    interval, p, stderr, name = test
    a, b = pair.mean(pair.a), pair.mean(pair.b)
    verdict: Verdict = "no difference shown"
    if p_holm < ALPHA:
        verdict = "B is better" if (b > a) == pair.metric.higher_is_better else "A is better"
    return Comparison(
        task=pair.task,
        metric=pair.metric.name,
        higher_is_better=pair.metric.higher_is_better,
        is_share=pair.is_share,
        n=len(pair.a),
        a=a,
        b=b,
        difference=b - a,
        interval=interval,
        p=p,
        p_holm=p_holm,
        verdict=verdict,
        detectable=detectable(stderr, ALPHA / n_compared),
        equal_items=int((pair.a == pair.b).sum()),
        test=name,
    )


def _only(these: EvalResult, those: EvalResult) -> list[str]:
    return [result.task for result in these.results if those.task(result.task) is None]


def _settings_notes(a: EvalResult, b: EvalResult) -> list[str]:
    notes = []
    if a.model.sha256 == b.model.sha256:
        notes.append("A and B are the same model file.")
    return notes + _unlike(a.settings, b.settings, "")


def _details_notes(a: TaskResult, b: TaskResult) -> list[str]:
    notes = _unlike(_settings(a), _settings(b), f"{a.task}: ")
    prompts = a.details.get("prompts"), b.details.get("prompts")
    if not notes and a.item_ids == b.item_ids and None not in prompts and prompts[0] != prompts[1]:
        notes.append(
            f"{a.task}: A and B were asked in other words (other examples before the questions, or another version of "
            "the task), so the models are not all that differs."
        )
    return notes


def _settings(task: TaskResult) -> dict[str, Any]:
    """What the task was measured with, from what its details say of what was asked and what was done."""
    asked = task.details.get("asked")
    found: dict[str, Any] = {}
    for settings in (asked.get("settings") if isinstance(asked, Mapping) else None, task.details.get("settings")):
        found |= settings if isinstance(settings, Mapping) else {}
    return found


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any], where: str) -> list[str]:
    """A note for each setting that is not the same. The number of items is told elsewhere, and is no way to measure."""
    names = [name for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name) and name != "limit"]
    return [f"{where}A was measured with {name} {a.get(name)}, B with {b.get(name)}." for name in names]


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
