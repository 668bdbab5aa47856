"""`ingle eval`: how good a model is, and which of two is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.errors import IngleError, UsageError

if TYPE_CHECKING:
    from ingle.cli.eval_jobs import Asked, Job
    from ingle.engine.model import Model
    from ingle.evaluate.result import EvalResult

__all__ = ["command"]


@click.command("eval", short_help="Measure how good a model is; compare two.")
@click.argument("model", required=False)
@click.option(
    "--tasks",
    multiple=True,
    metavar="NAMES",
    help="Tasks and sets, with commas: mobilellm, melt, arc_easy, ..., perplexity, calls, calls_snips, ... [default: "
    "mobilellm with --data, perplexity with --text, calls with --items]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with the tasks' data; nothing is fetched then. Without it, lm-evaluation-harness fetches by name.",
)
@click.option("--text", type=click.Path(path_type=Path), help="Text for the task perplexity, UTF-8.")
@click.option(
    "--reference", metavar="MODEL", help="For perplexity: a model to measure the distance to (KL divergence, top-1)."
)
@click.option(
    "--items", type=click.Path(path_type=Path), help="Your own requests for the task calls, JSON Lines; see the manual."
)
@click.option(
    "--grammar",
    type=click.Choice(["both", "schema", "none"]),
    default="both",
    show_default=True,
    help="For calls: answers held to the tools' schema, free ones, or both measured.",
)
@click.option("--shots", type=click.IntRange(0), help="Examples before each question. [default: the task's own]")
@click.option("--limit", type=click.IntRange(1), help="Only so many items of each task.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses examples and resamples.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the result in this JSON file, written after each task; what it has already is not measured again.",
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the scores, or the differences, as a PNG.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Compare two models, or results kept with --out, item by item.",
)
@click.option("--all-metrics", is_flag=True, help="With --compare: every metric, not only each task's first.")
@click.option("--list", "list_tasks", is_flag=True, help="List the tasks, and whether --data has what they need.")
@click.option("-c", "--context", type=click.IntRange(1), help="Tokens of context. [default: the model's, at most 4096]")
@click.option("--threads", type=click.IntRange(1), help="[default: as many as compute best here]")
@click.option(
    "--backend",
    type=click.Choice(["native", "reference"]),
    default="native",
    show_default=True,
    help="What computes; the reference is slow and plain.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON record, without the figures of single items.")
def command(model: str | None, **options: Any) -> None:
    """Measure MODEL, a GGUF file or a Hugging Face directory; without it the bundled model.

    Every score has its standard error. Ctrl-C keeps the tasks that are finished: the same command with the same --out
    goes on where it stopped. A comparison is paired, and says "no difference shown" where it shows none, and how small
    a difference it could have shown.

    \b
      ingle eval model.gguf --tasks arc_easy,hellaswag --data eval --out model.json
      ingle eval model.gguf --text wikitext.txt --reference original.gguf
      ingle eval --tasks calls --data api_calls --limit 200
      ingle eval --compare a.json b.json --picture differences.png
    """
    from ingle.cli.eval_jobs import Asked, names_of

    compared = options["compare"]
    if compared and (model is not None or options["list_tasks"]):
        raise UsageError("--compare takes the two models or results itself; give no other MODEL and no --list.")
    if options["all_metrics"] and not compared:
        raise UsageError("--all-metrics is for --compare; a result always has every metric.")
    asked = Asked(
        load=lambda path: _load(path, options),
        tasks=names_of(options["tasks"]),
        **{name: options[name] for name in ("data", "text", "reference", "items", "grammar", "shots", "limit", "seed")},
    )
    if options["list_tasks"]:
        from ingle.cli.eval_list import list_tasks

        list_tasks(asked.data, as_json=options["as_json"])
        return
    _check_outputs(options)
    if compared:
        _compare(compared, asked, options)
    else:
        _measure(model, asked, options)


def _measure(model: str | None, asked: Asked, options: dict[str, Any]) -> None:
    from ingle.cli.console import json_line
    from ingle.cli.eval_view import print_scores, say
    from ingle.evaluate.picture import draw_scores

    run = _Run(model, asked, options, out=options["out"])
    try:
        run()
    finally:  # what is finished is shown, however it ended
        result = run.result
        if result is not None and result.results:
            click.echo(json_line(_summary(result))) if options["as_json"] else print_scores(result)
            if options["picture"] is not None:
                draw_scores(result, options["picture"])
    if run.interrupted:
        where = f"is in {options['out']}, and the same command goes on" if options["out"] else "was shown"
        say(f"Stopped. What is finished {where}.")
        raise click.Abort
    run.raise_problems()


def _compare(sides: tuple[str, str], asked: Asked, options: dict[str, Any]) -> None:
    from ingle.cli.console import json_line, write_whole
    from ingle.cli.eval_view import print_comparison
    from ingle.evaluate.compare import compare
    from ingle.evaluate.picture import draw_comparison

    out = options["out"]
    if out is not None and out.exists():
        raise UsageError(f"{out} exists; give the comparison another name.")
    found = []
    for side in sides:
        if side.lower().endswith(".json"):
            found.append(_kept(Path(side), asked))
            continue
        run = _Run(side, asked, options)
        run()
        if run.interrupted:
            raise click.Abort
        run.raise_problems()
        assert run.result is not None
        found.append(run.result)
    report = compare(*found, all_metrics=options["all_metrics"], seed=asked.seed)
    if out is not None:
        write_whole(out, json_line(report.to_dict()) + "\n")
    if options["picture"] is not None:
        draw_comparison(report, options["picture"])
    click.echo(json_line(report.to_dict())) if options["as_json"] else print_comparison(report)


def _kept(path: Path, asked: Asked) -> EvalResult:
    """A result from its file; with --tasks, only these of it."""
    from dataclasses import replace

    from ingle.evaluate.result import EvalResult
    from ingle.evaluate.tasks import SETS

    result = EvalResult.load(path)
    wanted = {task for name in asked.tasks for task in SETS.get(name, (name,))}
    if not wanted:
        return result
    tasks = [
        task for task in result.results if task.task in wanted or ("calls" in wanted and task.task.startswith("calls"))
    ]
    if not tasks:
        raise UsageError(f"{path} has none of the tasks {', '.join(sorted(wanted))}; evaluate that model with them.")
    return replace(result, results=tuple(tasks))


class _Run:
    """One model measured with all that was asked for. result: what is finished, also after an error or Ctrl-C."""

    def __init__(self, model: str | None, asked: Asked, options: dict[str, Any], out: Path | None = None) -> None:
        self.model, self.asked, self.options, self.out = model, asked, options, out
        self.result: EvalResult | None = None
        self.interrupted = False
        self._problems: list[tuple[str, IngleError]] = []
        self._n_jobs = 0

    def __call__(self) -> None:
        from ingle.cli.eval_jobs import check_packages, plan_jobs
        from ingle.cli.eval_view import EvalView, say

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
        try:
            with _load(self.model, self.options) as model, EvalView(len(todo)) as view:
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

    def _run(self, job: Job, model: Model, view: Any) -> None:
        assert self.result is not None
        view(job.task, 0, 1)
        try:
            results = job(model, view)
        except IngleError as error:  # the other tasks can go on
            self._problems.append((job.task, error))
            return
        self.result = self.result.with_results(*results)
        if self.out is not None:
            self.result.save(self.out)
        view.finished(results)

    def _begin(self) -> EvalResult:
        """A result without tasks, or the one that is in the file. Raises UsageError where that is of something else."""
        from ingle.cli.console import loading_bar
        from ingle.engine.model import bundled_model, context_of
        from ingle.evaluate.identity import model_info
        from ingle.evaluate.result import EvalResult
        from ingle.models.checkpoint import open_checkpoint
        from ingle.text import metadata_from_hf

        path = bundled_model() if self.model is None else Path(self.model)
        asked = self.options["context"]
        checkpoint = open_checkpoint(path, asked, metadata_from_hf)
        try:
            settings = {name: self.options[name] for name in ("limit", "seed", "backend")}
            settings["context"] = context_of(checkpoint, asked)
            with loading_bar("Reading") as report:
                info = model_info(checkpoint, path, report)
        finally:
            checkpoint.close()
        fresh = EvalResult(info, settings, _versions())
        if self.out is None or not self.out.exists():
            return fresh
        kept = EvalResult.load(self.out)
        if kept.model.sha256 != info.sha256:
            raise UsageError(
                f"{self.out} is the result of another model ({kept.model.name}, {kept.model.file}); give another "
                "name, or delete it."
            )
        for name, value in settings.items():
            if kept.settings.get(name) != value:
                raise UsageError(
                    f"{self.out} was measured with {_said(name, kept.settings.get(name))}, and this asks for "
                    f"{_said(name, value)}; give another name, or delete it."
                )
        return kept

    def _is_done(self, result: EvalResult, job: Job) -> bool:
        """Whether the result has this job. Raises UsageError where it was measured with other settings."""
        for task in result.results:
            if job.task not in (task.task, task.details.get("asked")):
                continue
            kept = task.details.get("settings")
            for name, value in job.settings.items():
                before = kept.get(name) if isinstance(kept, dict) else None
                if before != value:
                    raise UsageError(
                        f"{self.out} has {job.task} with {_said(name, before)}, and this asks for "
                        f"{_said(name, value)}; give another name, or delete it."
                    )
            return True
        return False


def _said(name: str, value: object) -> str:
    return f"no {name} given" if value is None else f"{name} {value}"


def _load(path: str | None, options: dict[str, Any]) -> Model:
    from ingle.cli.console import loading_bar
    from ingle.engine.model import load
    from ingle.evaluate.batch import evaluate_slots

    n_slots = evaluate_slots(path, context=options["context"], backend=options["backend"])
    with loading_bar("Loading") as report:
        return load(
            path,
            context=options["context"],
            threads=options["threads"],
            backend=options["backend"],
            n_slots=n_slots,
            on_progress=report,
        )


def _check_outputs(options: dict[str, Any]) -> None:
    """What is written to must be writable: hours of measuring end there."""
    for name in ("out", "picture"):
        path: Path | None = options[name]
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"--{name} {path} is a directory; give the name of a file to write.")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"The directory {path.parent} does not exist; make it first.")
    if options["picture"] is not None and options["picture"].suffix.lower() != ".png":
        raise UsageError(f"--picture {options['picture']} is drawn as a PNG; give a name that ends in .png.")


def _summary(result: EvalResult) -> dict[str, Any]:
    """The record without the figures of single items, which a file is for."""
    record = result.to_dict()
    for task in record["results"]:
        del task["item_ids"]
        task["details"] = {name: value for name, value in task["details"].items() if name not in _OF_ITEMS}
        for metric in task["metrics"]:
            del metric["values"]
    return record


_OF_ITEMS = ("clusters", "weights", "items")


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
