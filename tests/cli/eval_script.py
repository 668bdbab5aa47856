"""`ingle eval` with runners of script: what is asked of them, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from ingle.cli import cli
from ingle.evaluate.calls.item import Item
from ingle.evaluate.result import Metric, TaskResult
from ingle.evaluate.statistics import mean_stderr

TASKS = ("arc_easy", "boolq", "piqa")


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(cli, ["eval", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fails(*words: str | Path) -> str:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("ingle: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def scores(task: str, values: Sequence[float], metric: str = "acc") -> TaskResult:
    mean = float(np.mean(values))
    found = Metric(metric, mean, mean_stderr(values), len(values), values=tuple(map(float, values)))
    ids = tuple(f"{task} {i}" for i in range(len(values)))
    return TaskResult(task, (found,), ids, 0.5, (f"of {task}",), {"chance": 0.25})


class Script:
    """The runners: remembers what they were asked, and does for a task what `acts` has for it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.acts: dict[str, Callable[[], None]] = {}

    @property
    def tasks(self) -> list[str]:
        return [task for task, _ in self.asked]

    def harness(self, model: Any, tasks: Sequence[str], **options: Any) -> list[TaskResult]:
        (task,) = tasks
        return self._answer(task, model, options)

    def perplexity(self, model: Any, text: Path, **options: Any) -> list[TaskResult]:
        reference = options["reference"]
        name = None if reference is None else Path(reference.name).name
        return self._answer("perplexity", model, {**options, "text": text, "reference": name})

    def calls(self, model: Any, items: Sequence[Item], **options: Any) -> list[TaskResult]:
        sources = sorted({item.source for item in items})
        return self._answer("_".join(("calls", *sources)), model, {**options, "n_items": len(items)})

    def _answer(self, task: str, model: Any, options: dict[str, Any]) -> list[TaskResult]:
        on_progress = options.pop("on_progress")
        self.asked.append((task, options))
        on_progress(task, 1, 2)
        self.acts.get(task, lambda: None)()
        on_progress(task, 2, 2)
        seed = int(model.name.endswith("b.gguf"))
        values = np.random.default_rng(seed).random(options.get("limit") or 60) < 0.4 + 0.5 * seed
        return [scores(task, values)]
