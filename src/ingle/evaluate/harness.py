"""Runs tasks of lm-evaluation-harness on our engine: results with standard errors and the score of each item.

lm_eval builds the prompts and judges the answers; `adapter` computes them. The values are lm_eval's own; where it has a
closed form for a standard error (means) ours is the same number, elsewhere it is a jackknife instead of its bootstrap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ingle.engine.model import Model
from ingle.errors import UsageError
from ingle.evaluate.result import Metric, TaskResult
from ingle.evaluate.statistics import mean_stderr
from ingle.evaluate.tasks.answers import f1_of_answer
from ingle.evaluate.tasks.plan import Planned, plan_tasks
from ingle.evaluate.tasks.surroundings import surroundings

if TYPE_CHECKING:
    from ingle.evaluate.adapter import IngleLM
    from ingle.evaluate.tasks.build import BuiltTask

__all__ = ["run_tasks"]

MAX_GROUPS = 200  # of a jackknife: the standard error is then good to about 5%

Progress = Callable[[str, int, int], None]  # (task, done, total)


def run_tasks(
    model: Model,
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[TaskResult]:
    """Evaluate the model on tasks and sets of tasks, each task once, in the order asked for.

    data: a folder with local data, then the network is not touched; None = lm_eval fetches what a task needs.
    shots: examples before each question; None = what the task's definition says, 0 for those of the sets. limit: so
    many items of each task, from its first. seed: chooses the examples. on_progress: told about a task's requests.

    A task of a set that has no data in the folder has a result without metrics whose note says so. All data is looked
    at before anything is computed, so that what is wrong with it is said at once.
    Raises UsageError for arguments that cannot be, DataError for data that is missing or unsound, ContextError for a
    task whose answers do not fit into the model's context.
    """
    for name, value, least in (("shots", shots, 0), ("limit", limit, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UsageError(f"{name} is {value!r}; expected a whole number of {least} or more.")
    planned = plan_tasks(tasks, data)
    if not planned:
        raise UsageError("No task was given; name at least one, or a set of tasks.")
    if find_spec("lm_eval") is None:
        raise UsageError("This needs lm-evaluation-harness, which is not installed; run: pip install 'ingle[eval]'.")
    with surroundings(offline=data is not None):
        prepared = [_prepare(plan, shots, limit, seed) for plan in planned]
        from ingle.evaluate.adapter import IngleLM

        lm = IngleLM(model=model)
        results = []
        for run in (run for runs in prepared for run in runs):
            results.append(run if isinstance(run, TaskResult) else _evaluate(lm, run, limit, on_progress))
        return results


@dataclass(frozen=True, slots=True)
class _Ready:
    """A task whose data was looked at."""

    built: BuiltTask
    item_ids: tuple[str, ...]
    chance: float | None
    notes: tuple[str, ...]


def _prepare(planned: Planned, shots: int | None, limit: int | None, seed: int) -> list[_Ready | TaskResult]:
    from ingle.evaluate.tasks.build import build, check_items, set_shots

    if planned.left_out is not None:
        return [TaskResult(planned.task, (), notes=(f"Left out. {planned.left_out}",), details={"left_out": True})]
    ready: list[_Ready | TaskResult] = []
    for built in build(planned):
        note = set_shots(built, shots, seed)
        items = check_items(built, limit)
        n_all = len(built.task.eval_docs)
        first = f"The first {len(items.ids):,} of {n_all:,} items only." if len(items.ids) < n_all else None
        notes = (f"{built.origin}: {built.split}.", first, note)
        ready.append(_Ready(built, items.ids, items.chance, tuple(text for text in notes if text)))
    return ready


def _evaluate(lm: IngleLM, ready: _Ready, limit: int | None, on_progress: Progress | None) -> TaskResult:
    from lm_eval.evaluator import evaluate

    built, task = ready.built, ready.built.task
    lm.n_cut = 0
    lm.on_progress = None if on_progress is None else lambda done, total: on_progress(built.name, done, total)
    began = perf_counter()
    found = evaluate(lm=lm, task_dict={"tasks": {built.name: task}}, limit=limit, bootstrap_iters=0, log_samples=True)
    seconds = perf_counter() - began
    samples = found["samples"][built.name]
    metrics = _metrics(task, found["results"][built.name], samples)
    if built.name == "triviaqa":
        metrics.append(_f1(samples))
    notes = list(ready.notes)
    if lm.n_cut:
        notes.append(
            f"{lm.n_cut:,} prompts lost their beginning: they are longer than the context of {lm.max_length} tokens."
        )
    details = {
        "data": built.origin,
        "split": built.split,
        "shots": int(task.get_config("num_fewshot") or 0),
        "task_version": str(task.VERSION),
        "n_requests": len(task.instances),
        "prompts": _digest(samples),
        "lm_eval": _version("lm_eval"),
    }
    if ready.chance is not None:
        details["chance"] = ready.chance
    return TaskResult(built.name, tuple(metrics), ready.item_ids, seconds, tuple(notes), details)


def _metrics(task: Any, values: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """lm_eval's figures, each with its standard error and the score of each item where it is a mean of these."""
    from lm_eval.api.metrics import mean

    filters = dict.fromkeys(sample["filter"] for sample in samples)
    metrics = []
    for key, value in values.items():
        name, _, filter_name = key.partition(",")
        if not filter_name or name.endswith("_stderr") or filter_name not in filters:
            continue
        scores = [sample[name] for sample in samples if sample["filter"] == filter_name and name in sample]
        aggregate = task.aggregation().get(name, mean)
        is_mean = aggregate is mean
        stderr = _stderr_of_mean(scores) if is_mean else _jackknife(aggregate, scores)
        metrics.append(
            Metric(
                name if len(filters) == 1 else f"{name} ({filter_name})",
                float(value),
                stderr,
                len(scores),
                task.higher_is_better().get(name) is not False,  # None where the harness does not know the metric
                tuple(map(float, scores)) if is_mean and len(scores) * len(filters) == len(samples) else (),
            )
        )
    return metrics


def _f1(samples: Sequence[Mapping[str, Any]]) -> Metric:
    """What the MobileLLM paper reports for TriviaQA beside lm_eval's exact match."""
    scores = [f1_of_answer(sample["filtered_resps"][0], sample["doc"]["answer"]["aliases"]) for sample in samples]
    return Metric("f1", math.fsum(scores) / len(scores), _stderr_of_mean(scores), len(scores), values=tuple(scores))


def _stderr_of_mean(scores: Sequence[float]) -> float | None:
    return mean_stderr(scores) if len(scores) > 1 else None


def _jackknife(aggregate: Callable[[list[Any]], float], scores: Sequence[Any]) -> float | None:
    """The standard error of `aggregate(scores)`: it is computed without each item (or each of 200 groups of them).

    Efron and Tibshirani, An Introduction to the Bootstrap, chapter 11.
    """
    n_groups = min(len(scores), MAX_GROUPS)
    if n_groups < 2:
        return None
    values = [
        float(aggregate([score for i, score in enumerate(scores) if i % n_groups != group]))
        for group in range(n_groups)
    ]
    middle = math.fsum(values) / n_groups
    return math.sqrt((n_groups - 1) / n_groups * math.fsum((value - middle) ** 2 for value in values))


def _digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """The same for two runs exactly where lm_eval asked the same of both, few-shot examples included."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr(sample["arguments"]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
