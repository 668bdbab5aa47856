"""Tasks of lm-evaluation-harness as objects: its own definitions, with local rows where it would fetch some."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from ingle.errors import DataError, IngleError, UsageError
from ingle.evaluate.result import item_id
from ingle.evaluate.tasks.catalog import SETS, TASKS
from ingle.evaluate.tasks.forms import Row, group_race
from ingle.evaluate.tasks.local import Source, read_source
from ingle.evaluate.tasks.plan import Planned

__all__ = ["BuiltTask", "Items", "build", "check_items", "set_shots"]

HarnessTask: TypeAlias = Any  # lm_eval.api.task.Task

_RACE_MIDDLE = ("ehovy/race", "middle")  # the data set and its part on Hugging Face


@dataclass(frozen=True, slots=True)
class BuiltTask:
    """A task that can be run. origin: the file, or the data set that was fetched. split: which of its items."""

    name: str
    task: HarnessTask
    origin: str
    split: str


@dataclass(frozen=True, slots=True)
class Items:
    """Of the items of a task: a name for each, and the score of guessing among the choices, where that is known."""

    ids: tuple[str, ...]
    chance: float | None


def build(planned: Planned) -> list[BuiltTask]:
    """The task, or the tasks of the group that lm-evaluation-harness knows by this name.

    Raises DataError for data that is unsound or cannot be fetched, UsageError for a name that nobody knows.
    """
    if planned.source is not None:
        return [_build_local(planned.source)]
    base, manager = _definition(planned.task)
    changes: dict[str, Any] = {}
    if planned.task == "race_middle":
        path, name = _RACE_MIDDLE
        changes = {"custom_dataset": _fetch_race_middle, "dataset_path": path, "dataset_name": name}
    try:
        tasks = _load(manager, base, changes) if changes else manager.load([base])["tasks"]
    except IngleError:
        raise
    except Exception as error:  # whatever datasets and the hub client raise
        raise DataError(
            f"The data of {planned.task} is not on this machine and cannot be fetched ({type(error).__name__}); "
            f"connect to the network, or give a data folder with {planned.task}.jsonl."
        ) from error
    if changes:
        tasks = {planned.task: _renamed(tasks[base], planned.task)}
    return [BuiltTask(name, it, _origin(it), _split(it)) for name, it in tasks.items()]


def set_shots(built: BuiltTask, shots: int | None, seed: int) -> str | None:
    """So many examples before each question; None = as many as the task's definition says, most have 0.

    Where they come from a split of their own, from that; else from the other items. Returns what is to be said about
    it, if anything. Raises DataError where there are too few.
    """
    task = built.task
    fixed = task.get_config("num_fewshot")
    note = None
    if shots is not None and fixed == 0:
        if shots:
            note = "Its definition fixes what comes before a question, so no other examples were put there."
    elif shots is not None or fixed is None:
        task.set_config("num_fewshot", shots or 0)
    n_shots = task.get_config("num_fewshot")
    if n_shots:
        own = task.fewshot_cfg.split == task.config.test_split  # then an item is never an example before itself
        there = len(task.sampler.df) - own
        if there < n_shots:
            raise DataError(f"{built.name} needs {n_shots} examples to choose from, and has {there}; ask for fewer.")
        where = "the other items of the test itself" if own else f"the split {task.fewshot_cfg.split}"
        note = f"{n_shots} examples before each question, from {where}, seed {seed}."
    task.set_fewshot_seed(seed=seed)
    return note


def check_items(built: BuiltTask, limit: int | None) -> Items:
    """Look at each item as the task will. Raises DataError that says which item the task cannot use."""
    task = built.task
    ids: list[str] = []
    chances: list[float] = []
    docs = task.eval_docs
    for number in range(len(docs) if limit is None else min(limit, len(docs))):
        doc = docs[number]
        try:
            choices = task.doc_to_choice(doc) if task.get_config("doc_to_choice") else []
            text, target = task.doc_to_text(doc), task.doc_to_target(doc)
            gold = text if getattr(task, "multiple_input", 0) else target
            if choices and not _is_among(gold, choices):
                raise ValueError(gold)
            name = item_id(str(text), *map(str, choices), str(target))
        except Exception as error:  # templates and functions of the definition, on whatever the file holds
            raise DataError(
                f"{built.origin}, item {number + 1} is not what the task {built.name} needs "
                f"({type(error).__name__}: {_short(error)})."
            ) from error
        ids.append(name)
        if choices and isinstance(gold, (int, str)):
            chances.append(1 / len(choices))
    right_or_wrong = len(chances) == len(ids) and task.get_config("process_results") is None
    return Items(tuple(ids), math.fsum(chances) / len(chances) if chances and right_or_wrong else None)


def _is_among(gold: object, choices: list[str]) -> bool:
    if isinstance(gold, list):
        return bool(gold) and all(_is_among(one, choices) for one in gold)
    return 0 <= gold < len(choices) if isinstance(gold, int) else gold in choices


def _build_local(source: Source) -> BuiltTask:
    base, manager = _definition(source.task)
    items, train = read_source(source)
    n_items = len(items.rows)
    examples = "test" if train is None else "train"
    # As the test split, whatever it was: only there does lm_eval keep an item out of its own examples.
    changes = {
        **items.overrides,
        "custom_dataset": _dataset(items.rows, train, source.name),
        "test_split": "test",
        "validation_split": None,
        "training_split": None if train is None else "train",
        "fewshot_split": examples,
    }
    try:
        task = _load(manager, base, changes)[base]
    except IngleError:
        raise
    except Exception as error:  # the definition looks at the first item
        raise DataError(
            f"{source.name} is not what the task {source.task} needs ({type(error).__name__}: {_short(error)}); "
            "expected the columns of its data set on Hugging Face."
        ) from error
    split = source.describe(n_items)
    definition = manager.task_index[base].cfg or {}
    usual = definition.get("test_split") or definition.get("validation_split")
    if source.known is not None and n_items == source.known.n_items and source.known.n_in_split and usual:
        split += "" if usual == source.known.split else f"; the task's own split is {usual}"
    return BuiltTask(source.task, _renamed(task, source.task), source.name, split)


def _dataset(rows: list[Row], train: list[Row] | None, where: str) -> Callable[..., Any]:
    """What lm_eval calls in the place of `datasets.load_dataset`."""

    def make(**_: object) -> Any:
        from datasets import Dataset, DatasetDict

        try:
            splits = {"test": Dataset.from_list(rows)}
            return DatasetDict(splits if train is None else {**splits, "train": Dataset.from_list(train)})
        except (TypeError, ValueError, OverflowError) as error:  # pyarrow's errors are these
            raise DataError(f"{where} has a column with values of different types ({_short(error)}).") from None

    return make


def _fetch_race_middle(**_: object) -> Any:
    """RACE's middle-school part, which lm_eval has no task for, in the form of its high-school part."""
    from datasets import Dataset, DatasetDict, load_dataset

    rows = group_race(load_dataset(*_RACE_MIDDLE, split="test"), _RACE_MIDDLE[0])
    return DatasetDict({"test": Dataset.from_list(rows)})


def _definition(task: str) -> tuple[str, Any]:
    """The name of a task in lm_eval, and a TaskManager that knows it. Raises UsageError where nobody knows it."""
    entry = TASKS.get(task)
    base = (entry.base if entry is not None else None) or task
    manager = _manager(_folder_of(task) if entry is None else entry.folder)
    if base not in manager.task_index:
        raise UsageError(_unknown(task))
    return base, manager


def _folder_of(task: str) -> str | None:
    """The folder in lm_eval/tasks whose definitions name the task; None where none does (a group, a tag, nothing)."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    named = re.compile(rb"^task:\s*[\"']?%b[\"']?\s*$" % re.escape(task.encode()), re.MULTILINE)
    found = (path for path in sorted(root.rglob("*.yaml")) if named.search(path.read_bytes()))
    return next((str(path.parent.relative_to(root)) for path in found), None)


@lru_cache(maxsize=32)
def _manager(folder: str | None) -> Any:
    """Of the definitions in one folder of lm_eval/tasks; None = of all of them, which takes 10 s of computing."""
    import lm_eval.tasks

    if folder is None:
        return lm_eval.tasks.TaskManager()
    root = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(include_path=str(root / folder), include_defaults=False)


def _load(manager: Any, base: str, changes: Mapping[str, Any]) -> dict[str, HarnessTask]:
    """The task with changes to its definition: lm_eval makes them for the members of a group."""
    group = {"group": "ingle", "task": [{"task": base, **changes}]}
    tasks: dict[str, HarnessTask] = manager.load([group])["tasks"]
    return tasks


def _renamed(task: HarnessTask, name: str) -> HarnessTask:
    task.set_config("task", name)
    return task


def _unknown(name: str) -> str:
    sets = ", ".join(SETS)
    return f"There is no task and no set {name!r}; the sets are {sets}, and `lm_eval ls tasks` lists the tasks."


def _origin(task: HarnessTask) -> str:
    path, name = task.get_config("dataset_path"), task.get_config("dataset_name")
    return " ".join(str(part) for part in (path, name) if part) or "a data set that was fetched"


def _split(task: HarnessTask) -> str:
    return str(task.get_config("test_split" if task.has_test_docs() else "validation_split"))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
