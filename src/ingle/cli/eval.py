"""`ingle eval`: how good a model is, and which of two is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.errors import UsageError

if TYPE_CHECKING:
    from ingle.cli.eval_jobs import Asked
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
    help="Keep the result in this JSON file, written after each task; what it has already is not measured again.",
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
      ingle eval --compare a.json a.json --tasks calls --variant +grammar
    """
    from ingle.cli.eval_jobs import Asked, names_of
    from ingle.cli.eval_run import open_model

    compared = options["compare"]
    if compared and (model is not None or options["list_tasks"]):
        raise UsageError("--compare takes the two models or results itself; give no other MODEL and no --list.")
    if options["all_metrics"] and not compared:
        raise UsageError("--all-metrics is for --compare; a result always has every metric.")
    if options["variant"] is not None and not compared:
        raise UsageError("--variant is for --compare; give it two models or results.")
    asked = Asked(
        load=lambda path: open_model(path, options),
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
    from ingle.cli.eval_run import Run
    from ingle.cli.eval_view import print_scores, say
    from ingle.evaluate.picture import draw_scores

    run = Run(model, asked, options, out=options["out"])
    try:
        run()
    finally:  # what is finished is shown, however it ended
        result = run.result
        if result is not None and result.results:
            click.echo(json_line(_summary(result))) if options["as_json"] else print_scores(result)
            if options["picture"] is not None:
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
        if side.lower().endswith(".json"):
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
    wanted = {task for name in asked.tasks for task in SETS.get(name, (name,))}
    if not wanted:
        return result
    if "calls" in wanted:
        wanted |= {task.task for task in result.results if task.task.startswith("calls")}
    tasks = [
        task
        for task in result.results
        if not wanted.isdisjoint((task.task, task.task.partition("+")[0], Job.of(task)[0]))
    ]
    if not tasks:
        raise UsageError(f"{path} has none of the tasks {', '.join(sorted(wanted))}; evaluate that model with them.")
    return replace(result, results=tuple(tasks))


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
