"""What `ingle eval` is to measure: from names of tasks to jobs, and what each needs, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingle.errors import DataError, UsageError

if TYPE_CHECKING:
    from ingle.engine.model import Model
    from ingle.evaluate.calls.item import Item
    from ingle.evaluate.calls.run import GrammarChoice
    from ingle.evaluate.result import TaskResult

__all__ = ["Asked", "Job", "check_packages", "names_of", "plan_jobs"]

Progress = Callable[[str, int, int], None]

PERPLEXITY, CALLS = "perplexity", "calls"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for. load: opens a model from a path (for the reference of `perplexity`)."""

    load: Callable[[str | None], Model]
    tasks: tuple[str, ...] = ()
    data: Path | None = None
    text: Path | None = None
    reference: str | None = None
    items: Path | None = None
    grammar: GrammarChoice = "both"
    shots: int | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One task to measure. settings: what it is measured with, beside what holds for all; a result keeps them."""

    task: str
    settings: Mapping[str, Any]
    run: Callable[[Model, Progress], list[TaskResult]]
    packages: tuple[str, ...] = ()

    def __call__(self, model: Model, on_progress: Progress) -> list[TaskResult]:
        """The results, of which a job may have several; their `details` say what was asked for."""
        asked = {"task": self.task, "settings": dict(self.settings)}
        return [replace(result, details={**result.details, "asked": asked}) for result in self.run(model, on_progress)]

    @staticmethod
    def of(result: TaskResult) -> tuple[str, Mapping[str, Any]]:
        """(task, settings) of the job that a result, perhaps from a file, is of."""
        asked = result.details.get("asked")
        task = asked.get("task") if isinstance(asked, Mapping) else None
        settings = asked.get("settings") if isinstance(asked, Mapping) else None
        return str(task or result.task), settings if isinstance(settings, Mapping) else {}


def names_of(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The names in what --tasks was given: split at commas, each once. Raises UsageError for an empty one."""
    names = [name.strip() for given in tasks for name in given.split(",")]
    if not all(names):
        raise UsageError("--tasks has an empty name; expected names with commas between them: arc_easy,piqa.")
    return tuple(dict.fromkeys(names))


def plan_jobs(asked: Asked) -> tuple[list[Job], list[str]]:
    """The jobs, in the order asked for, and notes about tasks of a set that have no data here.

    Raises UsageError for what cannot be asked, DataError for data that is not there.
    """
    names = asked.tasks or _default(asked)
    _check(asked, names)
    jobs: dict[str, Job] = {}
    notes: list[str] = []
    for name in names:
        if name == PERPLEXITY:
            jobs[name] = _perplexity(asked)
        elif name == CALLS or name.startswith(f"{CALLS}_"):
            jobs |= {job.task: job for job in _calls(asked, name)}
        else:
            for task, job in _harness(asked, name, notes):
                jobs.setdefault(task, job)
    if CALLS in jobs and asked.items is None:  # which has results of its sources too: they are not measured twice
        from ingle.evaluate.calls.sources import SPOKEN

        jobs = {task: job for task, job in jobs.items() if task.removeprefix(f"{CALLS}_") not in SPOKEN}
    if asked.shots is not None and not any(job.packages for job in jobs.values()):
        raise UsageError("--shots is for tasks of lm-evaluation-harness, and none was asked for; leave it out.")
    if not jobs:
        raise UsageError(" ".join(notes) or "There is nothing to measure; name tasks with --tasks.")
    return list(jobs.values()), list(dict.fromkeys(notes))


def check_packages(packages: set[str]) -> None:
    """Raises UsageError that says how to get the packages that are not installed."""
    missing = sorted(name for name in packages if find_spec(name) is None)
    if missing:
        raise UsageError(
            f"This evaluation needs packages that are not installed ({', '.join(missing)}): pip install 'ingle[eval]'."
        )


def _default(asked: Asked) -> tuple[str, ...]:
    """What the files that were given are for."""
    for_what = (("mobilellm", asked.data), (PERPLEXITY, asked.text), (CALLS, asked.items))
    found = [name for name, path in for_what if path is not None]
    if not found:
        raise UsageError(
            "Say what to measure: --tasks with names (--list shows some), --data FOLDER, --text FILE or --items FILE."
        )
    return tuple(found)


def _check(asked: Asked, names: tuple[str, ...]) -> None:
    if asked.text is not None and PERPLEXITY not in names:
        raise UsageError("--text is for the task perplexity; add it to --tasks.")
    if asked.items is not None and CALLS not in names:
        raise UsageError("--items is for the task calls; add it to --tasks.")
    if asked.reference is not None and PERPLEXITY not in names:
        raise UsageError("--reference is for the task perplexity; add it to --tasks, and give a text with --text.")
    if PERPLEXITY in names and asked.text is None:
        raise UsageError("perplexity is measured on a text; give one with --text FILE.")
    if asked.data is not None and not asked.data.is_dir():
        raise UsageError(f"{asked.data} is no folder; expected one with the data of the tasks.")
    for option, path in (("--text", asked.text), ("--items", asked.items)):
        if path is not None and not path.is_file():
            raise UsageError(f"{option} {path} is no file; expected one to read.")


def _harness(asked: Asked, name: str, notes: list[str]) -> Iterator[tuple[str, Job]]:
    from ingle.evaluate.tasks import plan_tasks

    for planned in plan_tasks([name], asked.data):
        if planned.left_out is not None:
            notes.append(f"{planned.task} is left out. {planned.left_out}")
            continue
        source = planned.source
        settings = {"shots": asked.shots, "data": None if source is None else source.name}
        yield planned.task, Job(planned.task, settings, partial(_run_harness, asked, planned.task), ("lm_eval",))


def _run_harness(asked: Asked, task: str, model: Model, on_progress: Progress) -> list[TaskResult]:
    from ingle.evaluate.harness import run_tasks

    return run_tasks(
        model,
        [task],
        data=asked.data,
        shots=asked.shots,
        limit=asked.limit,
        seed=asked.seed,
        on_progress=on_progress,
    )


def _perplexity(asked: Asked) -> Job:
    from ingle.cli.console import loading_bar
    from ingle.evaluate.identity import file_sha256, model_info
    from ingle.models.checkpoint import open_checkpoint
    from ingle.text import metadata_from_hf

    assert asked.text is not None
    settings = {"text": asked.text.name, "text_sha256": file_sha256(asked.text), "reference": None}
    if asked.reference is not None:
        path = Path(asked.reference)
        settings["reference"] = path.name
        with closing(open_checkpoint(path, None, metadata_from_hf)) as checkpoint, loading_bar("Reading") as report:
            settings["reference_sha256"] = model_info(checkpoint, path, report).sha256
    return Job(PERPLEXITY, settings, partial(_run_perplexity, asked))


def _run_perplexity(asked: Asked, model: Model, on_progress: Progress) -> list[TaskResult]:
    from contextlib import nullcontext

    from ingle.evaluate.perplexity import run_perplexity

    assert asked.text is not None
    with nullcontext(None) if asked.reference is None else asked.load(asked.reference) as reference:
        return run_perplexity(model, asked.text, reference=reference, limit=asked.limit, on_progress=on_progress)


def _calls(asked: Asked, name: str) -> Iterator[Job]:
    from ingle.evaluate.calls.sources import SOURCES, SPOKEN, available, load_items, missing
    from ingle.evaluate.identity import file_sha256

    if name == CALLS and asked.items is not None:
        settings = {"items": asked.items.name, "items_sha256": file_sha256(asked.items)}
        yield _calls_job(asked, CALLS, settings, partial(_own_items, asked.items))
        return
    if asked.data is None:
        raise UsageError(f"{name} needs requests: a folder of data sets with --data, or your own with --items FILE.")
    there = available(asked.data)
    wanted = there if name == CALLS else [name.removeprefix(f"{CALLS}_")]
    if not wanted:
        files = ", ".join(dict.fromkeys(files[0] for files, _ in SOURCES.values()))
        raise UsageError(f"{asked.data} has no requests for calls; expected one of {files} in it or in its api_calls.")
    spoken = [source for source in wanted if source in SPOKEN]
    if name == CALLS and spoken:  # one job: its results have one of all requests together
        yield _calls_job(asked, CALLS, {"sources": spoken}, partial(load_items, spoken, asked.data))
        wanted = [source for source in wanted if source not in spoken]
    for source in wanted:
        if source not in SOURCES:
            names = ", ".join(f"{CALLS}_{known}" for known in SOURCES)
            raise UsageError(f"There is no task {CALLS}_{source}; expected calls, {names}.")
        if source not in there:
            files = " and ".join(missing(source, asked.data))
            raise UsageError(f"{CALLS}_{source} needs {files} in {asked.data}, or in its api_calls.")
        yield _calls_job(asked, f"{CALLS}_{source}", {}, partial(load_items, [source], asked.data))


def _own_items(path: Path) -> list[Item]:
    from ingle.evaluate.calls.item import read_items
    from ingle.evaluate.calls.sources import SOURCES

    items = read_items(path)
    for item in items:
        if item.source in SOURCES:  # its result would take the place of that data set's
            raise DataError(
                f"{path.name} has items of a source {item.source!r}, a public data set; name yours otherwise."
            )
    return items


def _calls_job(asked: Asked, task: str, settings: Mapping[str, Any], items: Callable[[], Any]) -> Job:
    return Job(task, {"grammar": asked.grammar, **settings}, partial(_run_calls, asked, items))


def _run_calls(asked: Asked, items: Callable[[], Any], model: Model, on_progress: Progress) -> list[TaskResult]:
    from ingle.evaluate.calls.run import run_calls

    return run_calls(model, items(), grammar=asked.grammar, limit=asked.limit, on_progress=on_progress)
