"""How a training run looks on a terminal, and in a pipe."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import click

from ingle.cli.console import notes, size

__all__ = ["TrainView", "duration"]

_QUIET_S = 30.0  # between two lines about progress where there is no bar
_FIRST_S, _FIRST_STEPS = 3.0, 5  # what an estimate is made from


class TrainView:
    """Called with each record of a run: notes and a bar on stderr, the end of it on stdout."""

    def __init__(self, out: Path) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.out = out
        self._notes = notes()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>5.1f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=self._notes, transient=True)
        self._task: Any = None
        self._doing = ""
        self._started: dict[str, Any] = {}
        self._first: dict[str, Any] | None = None  # the step that estimates count from
        self._estimated = False
        self._score = ""
        self._spoke_at = monotonic()

    def __enter__(self) -> TrainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, record: dict[str, Any]) -> None:
        """Show a record of the log, or one about the preparation of the data."""
        show = getattr(self, f"_{record['event']}", None)
        if show is not None:
            show(record)

    def _prepare(self, record: dict[str, Any]) -> None:
        what = {"tokenizer": "Reading for the tokenizer", "data": "Tokenizing", "compile": "Compiling"}[record["what"]]
        total, done = record.get("total"), record.get("done", 0)
        figures = f"{size(done)} of {size(total)}" if total else size(done) if done else ""
        self._progress(what, done, total, figures)

    def _start(self, record: dict[str, Any]) -> None:
        self._started = record
        self._first = None
        n_steps, tokens = record["steps"], f"{record['batch_tokens']:,} tokens"
        budget = f"{n_steps:,} steps of {tokens}" if n_steps else f"{record['budget']}, in steps of {tokens}"
        begun = f"Going on after step {record['step']:,} with" if record["step"] else "Training"
        self._say(
            f"{begun} {record['parameters']:,} parameters on {record['train_tokens']:,} tokens of text: {budget}."
        )
        devices = f"{record['devices']} x {record['device']}" if record["devices"] > 1 else record["device"]
        threads = f", {record['threads']} threads" if record["device"] == "cpu" else ""
        compiled = ", compiled" if record["compile"] else ""
        self._say(
            f"On {devices}{threads}, {record['precision']}{compiled}; weights, gradients and optimizer take "
            f"{size(record['state_bytes'])}. Everything is kept in {self.out}."
        )

    def _step(self, record: dict[str, Any]) -> None:
        if self._first is None:
            self._first = record
        left = self._left_s(record)
        mfu = f", MFU {record['mfu']:.0%}" if record["mfu"] else ""
        speed = f"{record['tokens_per_s']:,.0f} tokens/s{mfu}"
        self._estimate(record, left)
        figures = f"loss {record['loss']:.3f}{self._score}, {speed}"
        self._progress("Training", record["done"], 1.0, figures, "" if left is None else f"{duration(left)} left")
        if not sys.stderr.isatty() and monotonic() - self._spoke_at > _QUIET_S:
            until = "" if left is None else f", {duration(left)} left"
            self._say(f"{record['done']:.1%}: step {record['step']:,}, {figures}{until}.")

    def _left_s(self, record: dict[str, Any]) -> float | None:
        """Seconds to the end, from the steps since the first one."""
        assert self._first is not None
        done: float = record["done"] - self._first["done"]
        seconds: float = record["elapsed_s"] - self._first["elapsed_s"]
        if done <= 0:
            return None
        left: float = (1 - record["done"]) / done * seconds
        return max(0.0, left)

    def _estimate(self, record: dict[str, Any], left: float | None) -> None:
        assert self._first is not None
        if self._estimated or left is None or record["step"] - self._first["step"] < _FIRST_STEPS:
            return
        if record["elapsed_s"] - self._first["elapsed_s"] < _FIRST_S:
            return
        self._estimated = True
        tokens = (record["tokens"] - self._first["tokens"]) / (record["done"] - self._first["done"])
        tokens = record["tokens"] + tokens * (1 - record["done"])
        memory = size(record["rss_bytes"])
        self._say(f"This will take about {duration(left)} and {tokens:,.0f} tokens; {memory} of memory are in use.")

    def _validation(self, record: dict[str, Any]) -> None:
        bits = f" ({record['bits_per_byte']:.3f} bits/byte)" if record["bits_per_byte"] is not None else ""
        self._score = f", validation {record['loss']:.3f}"
        self._say(f"Step {record['step']:,}: validation loss {record['loss']:.4f}{bits}.")

    def _warning(self, record: dict[str, Any]) -> None:
        self._say(f"Warning: {record['text']}", style="yellow")

    def _end(self, record: dict[str, Any]) -> None:
        self._stop()
        if record["status"] != "finished":
            self._say(f"Stopped after step {record['step']:,}. To go on: ingle train {self.out} --resume")
            return
        click.echo(f"{self.out / 'model'}: {self._started['parameters']:,} parameters, {self._outcome(record)}")
        export = f"ingle export {self.out} {self.out.name}.gguf --type {self._started['file_type']}"
        click.echo(f"{export} && ingle run {self.out.name}.gguf")

    def _outcome(self, record: dict[str, Any]) -> str:
        loss = f"validation loss {record['validation_loss']:.4f}, " if record.get("validation_loss") is not None else ""
        return f"{loss}{record['step']:,} steps in {duration(record['elapsed_s'])}"

    def _progress(self, what: str, done: float, total: float | None, figures: str, left: str = "") -> None:
        if not sys.stderr.isatty():
            if what != self._doing and what != "Training":
                self._say(f"{what} ...")
            self._doing = what
            return
        if what != self._doing:
            self._doing = what
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, total=total, figures=figures, left=left)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, figures=figures, left=left)

    def _stop(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def _say(self, text: str, style: str | None = None) -> None:
        self._spoke_at = monotonic()
        self._notes.print(text, style=style, markup=False)


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
