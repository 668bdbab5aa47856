"""How an evaluation looks: a bar while it runs, a table when it is done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from ingle.cli.console import clean, console, notes

if TYPE_CHECKING:
    from ingle.evaluate.compare import Report
    from ingle.evaluate.result import EvalResult, ModelInfo, TaskResult
    from ingle.evaluate.table import Table

__all__ = ["EvalView", "model_line", "print_comparison", "print_scores", "print_table"]


class EvalView:
    """Called with (task, done, total): a bar on stderr, where that is a terminal. A line for each task that is done."""

    def __init__(self, n_tasks: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._notes = notes()
        self._n_tasks, self._n_done = n_tasks, 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._notes, transient=True, disable=not self._notes.is_terminal)
        self._task: Any = None
        self._doing = ""

    def __enter__(self) -> EvalView:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        if task != self._doing:
            self._doing = task
            if self._task is not None:
                self._bar.remove_task(self._task)
            number = f"[{self._n_done + 1}/{self._n_tasks}] " if self._n_tasks > 1 else ""
            self._task = self._bar.add_task("", total=None)
            self._bar.update(self._task, description=clean(f"{number}{task}").replace("[", "\\["))
        self._bar.update(self._task, completed=done, total=total)

    def finished(self, results: Sequence[TaskResult]) -> None:
        """One task is done."""
        from ingle.evaluate.table import error_text, value_text

        self._n_done += 1
        for result in results if self._n_tasks > 1 else ():
            if not result.metrics:
                continue
            metric = result.metrics[0]
            share = metric.is_share
            error = "" if metric.stderr is None else f" ± {error_text(metric.stderr, share)}"
            score = f"{metric.name} {value_text(metric.value, share)}{error}"
            number = f"[{self._n_done}/{self._n_tasks}]"
            self._say(f"{number} {result.task}: {score}, {metric.n:,} items, {result.seconds:,.1f} s")

    def failed(self, task: str, error: Exception) -> None:
        """One task could not be measured; where others follow, why is said now too, and not only when all is over."""
        self._n_done += 1
        if self._n_tasks > 1:
            self._say(f"[{self._n_done}/{self._n_tasks}] {task} could not be measured. {error}")

    def _say(self, text: str) -> None:
        self._notes.print(clean(text), markup=False)


def print_scores(result: EvalResult) -> None:
    """The result on stdout."""
    from ingle.evaluate.table import score_table

    click.echo(model_line(result.model))
    print_table(score_table(result))
    _print_notes([f"{task.task}: {note}" for task in result.results for note in task.notes])


def print_comparison(report: Report) -> None:
    """The comparison on stdout, and how to read it."""
    from ingle.evaluate.compare import ALPHA
    from ingle.evaluate.table import comparison_table

    for name, side in (("A", report.a), ("B", report.b)):
        click.echo(f"{name}: {model_line(side.model)}")
    print_table(comparison_table(report))
    lines = [f"Verdicts at p < {ALPHA:g} after Holm's correction for {_count(len(report.comparisons))}."]
    if any(row.verdict == "no difference shown" for row in report.comparisons):
        lines.append(
            '"No difference shown" is not "equal": the test would have shown a true difference of the size under '
            '"could show" in 4 of 5 such samples, and may have missed a smaller one.'
        )
    _print_notes([*lines, *report.notes])


def model_line(model: ModelInfo) -> str:
    """A model in a line."""
    return clean(
        f"{model.name} ({model.file}): {model.architecture}, {model.n_parameters / 1e6:,.1f}M parameters, "
        f"{model.bits:.2f} bits each"
    )


def print_table(table: Table) -> None:
    """A table on stdout; where the terminal is too narrow for it, each row as a paragraph. Nothing is left out."""
    from rich.table import Table as RichTable
    from rich.text import Text

    widths = [max(map(len, column)) for column in zip(table.titles, *table.rows, strict=True)]
    needed = sum(widths) + 2 * len(widths)
    screen = console()
    if screen.is_terminal and screen.width < needed:
        _print_paragraphs(table, screen.width)
        return
    screen.width = needed  # a pipe has no edge
    shown = RichTable(box=None, padding=(0, 2, 0, 0))
    for number, title in enumerate(table.titles):
        shown.add_column(title, justify="left" if number in table.left else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(clean(cell), style=_style(cell)) for cell in row))
    with screen.capture() as capture:
        screen.print()
        screen.print(shown)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _print_paragraphs(table: Table, width: int) -> None:
    """Each row: what it is about, and below that its numbers, each after its title."""
    from textwrap import fill

    begun = ""  # what an empty first cell repeats
    for row in table.rows:
        begun = row[0] or begun
        texts = [clean(cell) for column, cell in enumerate(row) if column in table.left and column > 0 and cell]
        cells = zip(table.titles, row, strict=True)
        numbers = [f"{title} {cell}" for column, (title, cell) in enumerate(cells) if column not in table.left and cell]
        click.echo("\n" + fill("  ".join([clean(begun), *texts]), width, subsequent_indent="  "))
        if numbers:
            click.echo(fill(clean("; ".join(numbers)), width, initial_indent="  ", subsequent_indent="  "))


def _style(cell: str) -> str:
    return "bold" if cell in ("A is better", "B is better") else ""


def _print_notes(lines: Sequence[str]) -> None:
    if lines:
        click.echo()
    for line in lines:
        click.echo(click.style(clean(line), dim=True) if sys.stdout.isatty() else clean(line))


def _count(n: int) -> str:
    return "one comparison" if n == 1 else f"{n} comparisons"
