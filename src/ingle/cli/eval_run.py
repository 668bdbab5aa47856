"""One model measured: what is there already, what is to do, and what is kept after each task."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingle.errors import IngleError, UsageError

if TYPE_CHECKING:
    from ingle.cli.eval_jobs import Asked, Job
    from ingle.cli.eval_view import EvalView
    from ingle.engine.model import Model
    from ingle.evaluate.result import EvalResult

__all__ = ["Run"]


class Run:
    """One model measured with all that was asked for. result: what is finished, also after an error or Ctrl-C."""

    def __init__(self, model: str | None, asked: Asked, options: dict[str, Any], out: Path | None = None) -> None:
        self.model, self.asked, self.options, self.out = model, asked, options, out
        self.result: EvalResult | None = None
        self.interrupted = False
        self._problems: list[tuple[str, IngleError]] = []
        self._n_jobs = 0
        self._note = ""  # on what is measured now, where that is not with what the file was begun with

    def __call__(self) -> None:
        from ingle.cli.console import say
        from ingle.cli.eval_jobs import check_packages, plan_jobs
        from ingle.cli.eval_view import EvalView

        jobs, left_out = plan_jobs(self.asked)
        packages = {package for job in jobs for package in job.packages}
        check_packages(packages | ({"matplotlib"} if self.options["picture"] is not None else set()))
        begun = self._begin()
        todo = [job for job in jobs if not self._is_done(begun, job)]
        self.result, self._n_jobs = begun, len(jobs)
        for note in left_out:
            say(note)
        if len(todo) < len(jobs):
            say(f"{self.out} has {len(jobs) - len(todo)} of {len(jobs)} tasks already.")
        if not todo:
            return
        if self.options["memory"] is not None:
            _import_first(todo)
        try:
            with _open(self.model, self.options, begun.settings["context"]) as model, EvalView(len(todo)) as view:
                for job in todo:
                    self._run(job, model, view)
        except KeyboardInterrupt:
            self.interrupted = True

    def raise_problems(self) -> None:
        """Raises the error of a task that could not be measured; of one among others, UsageError that names it."""
        if self._problems and self._n_jobs == 1:
            raise self._problems[0][1]
        if self._problems:
            told = " ".join(f"{task}: {error}" for task, error in self._problems)
            raise UsageError(f"{len(self._problems)} of {self._n_jobs} tasks could not be measured. {told}")

    def _run(self, job: Job, model: Model, view: EvalView) -> None:
        assert self.result is not None
        view(job.task, 0, 1)
        try:
            results = job(model, view)
        except IngleError as error:  # the other tasks can go on
            self._problems.append((job.task, error))
            view.failed(job.task, error)
            return
        if self._note:
            results = [replace(result, notes=(*result.notes, self._note)) for result in results]
        self.result = self.result.with_results(*results)
        if self.out is not None:
            self.result.save(self.out)
        view.finished(results)

    def _begin(self) -> EvalResult:
        """A result without tasks, or the one that is in the file. Raises UsageError where that is of something else."""
        from ingle.cli.console import loading_bar
        from ingle.engine.model import DEFAULT_CONTEXT, bundled_model, context_of
        from ingle.evaluate.identity import model_info
        from ingle.evaluate.result import EvalResult
        from ingle.models.checkpoint import open_checkpoint
        from ingle.text import metadata_from_hf

        path = bundled_model() if self.model is None else Path(self.model)
        asked = self.options["context"]
        with closing(open_checkpoint(path, asked or DEFAULT_CONTEXT, metadata_from_hf)) as checkpoint:
            settings = {name: self.options[name] for name in ("limit", "seed", "backend")}
            settings["context"] = context_of(checkpoint, asked)
            if self.options["kv_type"] != "f16":  # as in files from before there were others
                settings["kv_type"] = self.options["kv_type"]
            kept = None
            if self.out is not None and self.out.exists():
                kept = EvalResult.load(self.out)
                self._check_settings(kept, settings)
            with loading_bar("Reading") as report:  # all of the model, so it comes last
                info = model_info(checkpoint, path, report)
        fresh = EvalResult(info, settings, _versions())
        if kept is None:
            return fresh
        if kept.model.sha256 != info.sha256:
            raise UsageError(
                f"{self.out} is the result of another model ({kept.model.name}, {kept.model.file}); give another "
                "name, or delete it."
            )
        changed = [f"{name} {now}" for name, now in fresh.versions.items() if kept.versions.get(name) != now]
        if changed:
            self._note = f"Measured with {', '.join(changed)}, unlike what the file was begun with."
        return kept

    def _check_settings(self, kept: EvalResult, settings: dict[str, Any]) -> None:
        for name in (*settings, "kv_type"):
            before, now = kept.settings.get(name), settings.get(name)
            if before != now:
                raise UsageError(
                    f"{self.out} was measured with {_said(name, before)}, and this asks for {_said(name, now)}; give "
                    "another name, or delete it."
                )

    def _is_done(self, result: EvalResult, job: Job) -> bool:
        """Whether the result has this job. Raises UsageError where it was measured with other settings."""
        for task in result.results:
            measured, kept = job.of(task)
            if measured != job.task:
                continue
            for name, value in job.settings.items():
                before = kept.get(name)
                if before != value:
                    raise UsageError(
                        f"{self.out} has {job.task} with {_said(name, before)}, and this asks for "
                        f"{_said(name, value)}; give another name, or delete it."
                    )
            return True
        return False


def _said(name: str, value: object) -> str:
    return f"no {name} given" if value is None else f"{name} {value}"


def _import_first(jobs: Sequence[Job]) -> None:
    """Import what tasks need before the model, which is given what that leaves of --memory."""
    if any("lm_eval" in job.packages for job in jobs):
        import_module("lm_eval.evaluator")


def _open(path: str | None, options: dict[str, Any], context: int) -> Model:
    """Load a model with as many slots as evaluating has use for. context: in any case, for it makes scores."""
    from ingle.cli.engine import cache_within, open_model
    from ingle.engine.generate import CHUNK
    from ingle.evaluate.batch import MAX_SLOTS, evaluate_slots

    if options["memory"] is not None:
        # A reference is loaded after this one, within the whole.
        memory = options["memory"] // (1 if options["reference"] is None else 2)
        options, n_slots = cache_within(path, {**options, "context": context, "memory": memory}, MAX_SLOTS)
        return open_model(path, options, n_slots=n_slots, logit_rows=CHUNK)
    engine = {name: options[name] for name in ("context", "backend", "kv_type")}
    return open_model(path, options, n_slots=evaluate_slots(path, **engine))


def _versions() -> dict[str, str]:
    """Of what the figures depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import ingle

    found = {"ingle": ingle.__version__, "python": platform.python_version()}
    for package in ("numpy", "tokenizers", "lm_eval", "llguidance"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
