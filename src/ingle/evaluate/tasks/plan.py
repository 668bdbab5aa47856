"""Which tasks a person asked for, and which of them can be run with the data there is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingle.errors import DataError, UsageError
from ingle.evaluate.tasks.catalog import SETS, TASKS
from ingle.evaluate.tasks.local import Source, find_source

__all__ = ["Planned", "plan_tasks"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A task to run. source: its local data; None = it is fetched by its name. left_out: why it will not be run."""

    task: str
    source: Source | None = None
    left_out: str | None = None


def plan_tasks(names: Sequence[str], data: Path | None) -> list[Planned]:
    """The tasks behind the names of tasks and sets, each once, in the order asked for.

    data: the folder with local data; None = tasks are fetched by lm-evaluation-harness under their own names. A task
    of a set that has no data in the folder is `left_out`; for one that was asked for by name DataError is raised,
    and UsageError for what can be no name. Nothing large is read, nothing is imported, nothing is fetched.
    """
    asked: dict[str, bool] = {}  # task: whether by its own name
    for name in names:
        for task in SETS.get(name, (name,)):
            asked[task] = asked.get(task, False) or name not in SETS
    planned = []
    for task, by_name in asked.items():
        if not re.fullmatch(r"[\w.+-]+", task):
            raise UsageError(
                f"{task!r} is no name of a task; expected one such as arc_easy, or one of {', '.join(SETS)}."
            )
        source = None if data is None else find_source(task, data)
        missing = data is not None and source is None
        if missing and by_name:
            raise DataError(_no_data(task, data))
        planned.append(Planned(task, source, _no_data(task, data) if missing else None))
    return planned


def _no_data(task: str, data: Path | None) -> str:
    known = [file.path for file in TASKS[task].files] if task in TASKS else []
    names = " or ".join([f"{task}.jsonl", *known])
    return f"The folder {data} has no data of {task}; expected {names} there, or in its folder eval."
