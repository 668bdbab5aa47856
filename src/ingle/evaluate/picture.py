"""Results as a picture: scores with their intervals and the level of chance; or differences with theirs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from ingle.evaluate.compare import Comparison, Report
from ingle.evaluate.result import EvalResult, Metric, TaskResult
from ingle.evaluate.table import chance_of, difference_text, error_text, interval_of, value_text
from ingle.files import write_whole

__all__ = ["draw_comparison", "draw_scores"]

_FEW = 3  # tasks, of which every metric is drawn; of more, the first of each
_BAR, _CHANCE, _INK = "#1f4e79", "#c2571a", "#333333"
_COLOURS = {"A is better": "#c2571a", "B is better": "#1f4e79", "no difference shown": "#8a8a8a"}
_ROW = 0.34  # inches
Arguments = ParamSpec("Arguments")


def _without_formulas(draw: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """A "$" in a name from outside is one, and begins no formula: matplotlib decides that where a text is made."""

    @wraps(draw)
    def drawing(*args: Arguments.args, **options: Arguments.kwargs) -> None:
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):
            draw(*args, **options)

    return drawing


@_without_formulas
def draw_scores(result: EvalResult, path: Path) -> None:
    """Draw the PNG `path`, replaced when the new one is whole: a bar a task, its 95% interval, and guessing's score.

    Scores that are no shares (a perplexity, say) have no scale in common and get a panel each. Raises OSError.
    """
    metrics = [
        (task, metric)
        for task in result.results
        for metric in (task.metrics if len(result.results) <= _FEW else task.metrics[:1])
    ]
    shares = [(task, metric) for task, metric in metrics if metric.is_share]
    others = [(task, metric) for task, metric in metrics if not metric.is_share]
    groups = ([shares] if shares else []) + [[one] for one in others]
    model = result.model
    title = f"{model.name}: {model.n_parameters / 1e6:,.1f}M parameters at {model.bits:.1f} bits"
    figure, panels = _panels([len(group) for group in groups], title)
    for panel, group in zip(panels, groups, strict=True):
        _bars(panel, group)
    _save(figure, path)


@_without_formulas
def draw_comparison(report: Report, path: Path) -> None:
    """Draw the PNG `path`, replaced when the new one is whole: the difference B - A of each task with its interval.

    Raises OSError.
    """
    higher = [row for row in report.comparisons if row.is_share and row.higher_is_better]
    lower = [row for row in report.comparisons if row.is_share and not row.higher_is_better]
    groups = [group for group in (higher, lower) if group]
    groups += [[row] for row in report.comparisons if not row.is_share]
    a, b = _names(report)
    figure, panels = _panels([len(group) for group in groups], f"B - A   (A = {a}, B = {b})")
    for panel, group in zip(panels, groups, strict=True):
        _differences(panel, group)
    from matplotlib.lines import Line2D

    seen = [verdict for verdict in _COLOURS if any(row.verdict == verdict for row in report.comparisons)]
    marks = [Line2D([], [], color=_COLOURS[verdict], marker="o", label=verdict) for verdict in seen]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    _save(figure, path)


def _panels(heights: Sequence[int], title: str) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [n + 0.4 for n in heights] or [1.0]
    figure = Figure(figsize=(8, 0.8 + 0.6 * len(rows) + _ROW * sum(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=_INK)
    found = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)
    panels = [row[0] for row in found]
    for panel in panels:
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", alpha=0.3, linewidth=0.6)
        panel.set_axisbelow(True)
    if not heights:
        panels[0].axis("off")
    return figure, panels if heights else []


def _bars(panel: Any, group: Sequence[tuple[TaskResult, Metric]]) -> None:
    share = group[0][1].is_share
    scale = 100 if share else 1
    right = 0.0
    for at, (task, metric) in enumerate(group):
        value = scale * metric.value if metric.value < float("inf") else 0.0
        interval = interval_of(task, metric)
        panel.barh(at, value, height=0.62, color=_BAR, alpha=0.85)
        end = value
        if interval is not None:
            low, high = scale * interval.low, scale * interval.high
            panel.plot([low, high], [at, at], color="black", linewidth=1.3, solid_capstyle="butt")
            panel.plot([low, high], [at, at], "|", color="black", markersize=7)
            end = max(end, high)
        chance = chance_of(task)
        if chance is not None and metric is task.metrics[0]:
            panel.plot([scale * chance] * 2, [at - 0.4, at + 0.4], color=_CHANCE, linewidth=2.2)
            end = max(end, scale * chance)
        error = "" if metric.stderr is None else f" ± {error_text(metric.stderr, share)}"
        text = value_text(metric.value, share) + error
        panel.annotate(text, (end, at), (6, 0), textcoords="offset points", va="center", fontsize=9, color=_INK)
        right = max(right, end)
    panel.set_yticks(range(len(group)), [_label(task, metric) for task, metric in group])
    panel.set_ylim(len(group) - 0.4, -0.6)
    low = min([0.0, *(scale * metric.value for _, metric in group)])
    panel.set_xlim(1.2 * low, (1.2 * right) or 1.0)
    if share:
        panel.set_xlim(0, min(1.2 * right, 122) if right else 10)
        told = "%, with the 95% interval"
        known = any(chance_of(task) is not None for task, _ in group)
        panel.set_xlabel(told + ("; orange: guessing" if known else ""), fontsize=9)
    else:
        better = "higher" if group[0][1].higher_is_better else "lower"
        panel.set_xlabel(f"{better} is better", fontsize=9)


def _differences(panel: Any, group: Sequence[Comparison]) -> None:
    share = group[0].is_share
    scale = 100 if share else 1
    panel.axvline(0, color=_INK, linewidth=1)
    ends = [0.0]
    for at, row in enumerate(group):
        colour = _COLOURS[row.verdict]
        low, high = scale * row.interval.low, scale * row.interval.high
        if low == low and high == high:
            panel.plot([low, high], [at, at], color=colour, linewidth=2.4, solid_capstyle="round")
            ends += [low, high]
        panel.plot([scale * row.difference], [at], "o", color=colour, markersize=6.5)
        ends.append(scale * row.difference)
        text = f"{value_text(row.a, share)} → {value_text(row.b, share)}   {difference_text(row.difference, share)}"
        panel.annotate(
            text,
            (1, at),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    panel.set_yticks(range(len(group)), [f"{row.task}\n{row.metric}, {row.n:,} items" for row in group], fontsize=8.5)
    panel.set_ylim(len(group) - 0.4, -0.6)
    reach = 1.1 * max(map(abs, ends)) or 1.0
    panel.set_xlim(-reach, reach)
    better = "B" if group[0].higher_is_better else "A"
    unit = "percentage points" if share else group[0].metric
    panel.set_xlabel(f"{unit}, with the 95% interval; right of 0, {better} is better", fontsize=9)


def _label(task: TaskResult, metric: Metric) -> str:
    mark = " (less is better)" if metric.is_share and not metric.higher_is_better else ""
    return f"{task.task}  {metric.name}{mark}"


def _names(report: Report) -> tuple[str, str]:
    a, b = report.a.model, report.b.model
    return (a.file, b.file) if a.name == b.name else (a.name, b.name)


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=140)
    write_whole(path, picture.getvalue())
