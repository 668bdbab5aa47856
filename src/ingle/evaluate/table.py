"""Results as rows of text, for a terminal or a page: every score with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingle.evaluate.compare import Report
from ingle.evaluate.result import EvalResult, Metric, TaskResult
from ingle.evaluate.statistics import Interval, binomial_stderr, normal_interval, wilson_interval

__all__ = [
    "Table",
    "chance_of",
    "comparison_table",
    "difference_text",
    "error_text",
    "interval_of",
    "score_table",
    "value_text",
]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under titles; `left` tells the columns that begin at the left, the others are numbers."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int]


def score_table(result: EvalResult) -> Table:
    """A row for each metric of each task; the task's name, items and time stand in its first row."""
    rows = []
    for task in result.results:
        chance = chance_of(task)
        for number, metric in enumerate(task.metrics):
            interval = interval_of(task, metric)
            share = metric.is_share
            rows.append(
                (
                    task.task if number == 0 else "",
                    metric.name,
                    value_text(metric.value, share),
                    "" if metric.stderr is None else error_text(metric.stderr, share),
                    "" if interval is None else _span(interval, share),
                    value_text(chance, share) if number == 0 and chance is not None else "",
                    f"{metric.n:,}",
                    f"{task.seconds:,.1f}" if number == 0 else "",
                )
            )
    titles = ("task", "metric", "score", "± s.e.", "95% interval", "chance", "items", "seconds")
    return Table(titles, tuple(rows), frozenset((0, 1)))


def comparison_table(report: Report) -> Table:
    """A row for each comparison."""
    rows = []
    for row in report.comparisons:
        share = row.is_share
        rows.append(
            (
                row.task,
                row.metric,
                f"{row.n:,}",
                value_text(row.a, share),
                value_text(row.b, share),
                difference_text(row.difference, share),
                _span(row.interval, share, signed=True),
                _p(row.p_holm),
                "" if math.isnan(row.detectable) else error_text(row.detectable, share),
                row.verdict,
            )
        )
    titles = ("task", "metric", "items", "A", "B", "B - A", "95% interval", "p (Holm)", "could show", "verdict")
    return Table(titles, tuple(rows), frozenset((0, 1, 9)))


def interval_of(task: TaskResult, metric: Metric) -> Interval | None:
    """The 95% interval of a metric's value; None where it has no standard error.

    Wilson's where the items are independent hits and misses, so that 0% of twenty is not sure to be 0%; else 1.96
    standard errors each way, for shares within 0 and 1, for losses and perplexities not below 0.
    """
    if metric.stderr is None or not math.isfinite(metric.stderr) or not math.isfinite(metric.value):
        return None
    found = normal_interval(metric.value, metric.stderr)
    if not metric.is_share:
        never_negative = not metric.higher_is_better and metric.value >= 0 and min(metric.values, default=0) >= 0
        return Interval(max(0.0, found.low), found.high) if never_negative else found
    known = [value for value in metric.values if not math.isnan(value)]
    weights = task.details.get("weights")
    weighted = isinstance(weights, Mapping) and metric.name in weights
    if known and not weighted and all(value in (0, 1) for value in known):
        independent = binomial_stderr(sum(known) / len(known), len(known))
        if math.isclose(metric.stderr, independent, rel_tol=0.02, abs_tol=1e-9):
            return wilson_interval(sum(known), len(known))
    return Interval(max(0.0, found.low), min(1.0, found.high))


def chance_of(task: TaskResult) -> float | None:
    """The score of guessing, where the task's details have it."""
    chance = task.details.get("chance")
    if isinstance(chance, bool) or not isinstance(chance, (int, float)) or not math.isfinite(chance):
        return None
    return float(chance)


def value_text(value: float, share: bool) -> str:
    """A value: shares in percent with a digit after the point, others with four digits or more."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "infinite"
    return f"{100 * value:.1f}%" if share else _digits(value, 4)


def difference_text(value: float, share: bool) -> str:
    """A difference with its sign: of shares in percentage points."""
    return f"{100 * value:+.1f}" if share else _digits(value, 3, "+")


def error_text(value: float, share: bool) -> str:
    """An error or a distance, in the unit of the value, without it."""
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.1f}" if share else _digits(value, 2)


def _digits(value: float, n: int, sign: str = "") -> str:
    """At least n digits that count: 0.01234, 12.34, 123,456."""
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value)))
    return f"{value:{sign}.{n - 1}e}" if before < -5 else f"{value:{sign},.{max(0, n - 1 - before)}f}"


def _span(interval: Interval, share: bool, *, signed: bool = False) -> str:
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "-"
    if signed:
        return f"{difference_text(interval.low, share)} .. {difference_text(interval.high, share)}"
    ends: Sequence[str] = [value_text(end, share).removesuffix("%") for end in (interval.low, interval.high)]
    return " .. ".join(ends)


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
