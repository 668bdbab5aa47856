"""`ingle eval`: how good a model is, and which of two is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ingle.cli.engine import engine_options, open_model
from ingle.errors import UsageError

if TYPE_CHECKING:
    from ingle.cli.eval_jobs import Asked
    from ingle.evaluate.result import EvalResult, TaskResult

__all__ = ["command"]

#: Options that only measuring reads.
_OF_MEASURING = (
    "data",
    "text",
    "reference",
    "items",
    "grammar",
    "shots",
    "limit",
    "context",
    "threads",
    "kv_type",
    "backend",
    "memory",
)


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
    type=click.Choice(["both", "schema", "copy", "none", "all"]),
    default="both",
    show_default=True,
    help="For calls: free answers (none), held to the tools' schema, with arguments copied from the request (copy); "
    "both measures none and schema, all the three.",
)
@click.option("--shots", type=click.IntRange(0), help="Examples before each question. [default: the task's own]")
@click.option("--limit", type=click.IntRange(1), help="Only so many items of each task.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses examples and resamples.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the result in this JSON file, written after each task; what it has already is not measured again. With "
    "--compare a new file, for the comparison.",
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the scores, or the differences, as a PNG.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Compare two models, or results kept with --out, item by item.",
)
@click.option(
    "--variant",
    metavar="ENDING",
    help="With --compare: B's results whose names end so, beside A's without it. +grammar: what the grammar changes.",
)
@click.option("--all-metrics", is_flag=True, help="With --compare: every metric, not only each task's first.")
@click.option("--list", "list_tasks", is_flag=True, help="List the tasks, and whether --data has what they need.")
@engine_options
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
      ingle eval --compare a.json a.json --tasks calls --variant +grammar
    """
    from ingle.cli.eval_jobs import Asked, names_of

    compared = options["compare"]
    if compared and (model is not None or options["list_tasks"]):
        raise UsageError("--compare takes the two models or results itself; give no other MODEL and no --list.")
    _check_read(options)
    if options["all_metrics"] and not compared:
        raise UsageError("--all-metrics is for --compare; a result always has every metric.")
    if options["variant"] is not None and not compared:
        raise UsageError("--variant is for --compare; give it two models or results.")
    asked = Asked(
        load=lambda path: open_model(path, options, bar=False),  # while the tasks' own bar is on the screen
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


def _check_read(options: dict[str, Any]) -> None:
    """Raises UsageError for what was given and would not be read."""
    context = click.get_current_context()
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }
    if options["list_tasks"]:
        unread = [option for name, option in given.items() if name not in ("list_tasks", "data", "as_json")]
        if unread:
            raise UsageError(f"--list reads only --data and --json; leave out {', '.join(unread)}.")
    if options["compare"] and all(map(_is_result, options["compare"])):
        unread = [option for name, option in given.items() if name in _OF_MEASURING]
        if unread:
            raise UsageError(f"Both sides of --compare are measured already; leave out {', '.join(unread)}.")


def _is_result(side: str) -> bool:
    return side.lower().endswith(".json")


def _measure(model: str | None, asked: Asked, options: dict[str, Any]) -> None:
    from ingle.cli.console import json_line, say
    from ingle.cli.eval_run import Run
    from ingle.cli.eval_view import print_scores
    from ingle.evaluate.picture import draw_scores

    run = Run(model, asked, options, out=options["out"])
    try:
        run()
    finally:  # what is finished is shown, however it ended
        result = run.result
        if result is not None and result.results:
            click.echo(json_line(_summary(result))) if options["as_json"] else print_scores(result)
    if result is not None and result.results and options["picture"] is not None:
        draw_scores(result, options["picture"])
    if run.interrupted:
        if run.result is None or not run.result.results:
            told = "No task was finished, so there is nothing to keep."
        elif options["out"] is None:
            told = "What is finished was shown."
        else:
            told = f"What is finished is in {options['out']}, and the same command goes on."
        say(f"Stopped. {told}")
        raise click.Abort
    run.raise_problems()


def _compare(sides: tuple[str, str], asked: Asked, options: dict[str, Any]) -> None:
    from ingle.cli.console import json_line, write_new
    from ingle.cli.eval_jobs import check_packages
    from ingle.cli.eval_run import Run
    from ingle.cli.eval_view import print_comparison
    from ingle.evaluate.compare import compare
    from ingle.evaluate.picture import draw_comparison

    check_packages({"matplotlib"} if options["picture"] is not None else set())
    out = options["out"]
    if out is not None and out.exists():
        raise UsageError(f"{out} exists; give the comparison another name.")
    found = []
    for side in sides:
        if _is_result(side):
            found.append(_kept(Path(side), asked))
            continue
        run = Run(side, asked, options)
        run()
        if run.interrupted:
            raise click.Abort
        run.raise_problems()
        assert run.result is not None
        found.append(run.result)
    if options["variant"] is not None:
        found = _variants(found[0], found[1], options["variant"])
    report = compare(*found, all_metrics=options["all_metrics"], seed=asked.seed)
    if out is not None:
        write_new(out, json_line(report.to_dict()) + "\n")
    if options["picture"] is not None:
        draw_comparison(report, options["picture"])
    click.echo(json_line(report.to_dict())) if options["as_json"] else print_comparison(report)


def _kept(path: Path, asked: Asked) -> EvalResult:
    """A result from its file; with --tasks, only these of it."""
    from dataclasses import replace

    from ingle.cli.eval_jobs import Job
    from ingle.evaluate.result import EvalResult
    from ingle.evaluate.tasks import SETS

    result = EvalResult.load(path)
    if not asked.tasks:
        return result
    tasks: dict[str, TaskResult] = {}
    for name in asked.tasks:
        wanted = {*SETS.get(name, (name,))}
        found = [
            task
            for task in result.results
            if not wanted.isdisjoint((task.task, task.task.partition("+")[0], Job.of(task)[0]))
            or (name == "calls" and task.task.startswith("calls_"))
        ]
        if not found:
            raise UsageError(f"{path} has no result of {name}; evaluate that model with it, or leave it out.")
        tasks |= {task.task: task for task in found}
    return replace(result, results=tuple(tasks.values()))


def _variants(a: EvalResult, b: EvalResult, ending: str) -> list[EvalResult]:
    """A without the tasks whose names have the ending; of B those alone, under the names without it."""
    from dataclasses import replace

    varied = [task for task in b.results if ending and task.task.removesuffix(ending) not in ("", task.task)]
    if not varied:
        names = ", ".join(task.task for task in b.results)
        raise UsageError(f"--variant {ending!r} is the ending of no task of B; expected that of one of {names}.")
    plain = tuple(task for task in a.results if not task.task.endswith(ending))
    renamed = tuple(replace(task, task=task.task.removesuffix(ending)) for task in varied)
    return [replace(a, results=plain), replace(b, results=renamed)]


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


_OF_ITEMS = ("clusters", "weights")
