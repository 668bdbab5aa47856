"""`ingle eval --list`: the tasks there are, and whether the data for them is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingle.errors import UsageError

if TYPE_CHECKING:
    from ingle.evaluate.table import Table

__all__ = ["list_tasks"]


def list_tasks(data: Path | None, *, as_json: bool) -> None:
    """Print the tasks on stdout, with what `data` has for each of them if a folder was given."""
    from ingle.cli.console import json_line
    from ingle.cli.eval_view import print_table

    if data is not None and not data.is_dir():
        raise UsageError(f"{data} is no folder; expected one with the data of the tasks.")
    rows = [*_harness(data), *_calls(data)]
    if as_json:
        click.echo(json_line({"tasks": rows}))
        return
    print_table(_table(rows, data))
    click.echo(
        "\nperplexity is measured on any text: --text FILE. calls is every calls_* that has data; your own requests: "
        "--items FILE.\nAny other task of lm-evaluation-harness can be named too."
    )
    if data is None:
        click.echo(
            "With --data FOLDER this list tells what is in the folder; without, the data of lm-evaluation-harness's "
            "tasks is fetched by name."
        )


def _harness(data: Path | None) -> list[dict[str, Any]]:
    from ingle.evaluate.tasks import SETS
    from ingle.evaluate.tasks.catalog import TASKS
    from ingle.evaluate.tasks.local import find_source

    rows = []
    for task, entry in TASKS.items():
        source = None if data is None else find_source(task, data)
        known = None if source is None else source.known
        expected = [f"{task}.jsonl", *(file.path for file in entry.files)]
        rows.append(
            {
                "task": task,
                "sets": [name for name, tasks in SETS.items() if task in tasks],
                "here": source is not None if data is not None else None,
                "data": None if source is None else source.name,
                "about": "" if known is None else known.describe(known.n_items),
                "expected": expected,
            }
        )
    return rows


def _calls(data: Path | None) -> list[dict[str, Any]]:
    from ingle.evaluate.calls.sources import SOURCES, available

    there = [] if data is None else available(data)
    return [
        {
            "task": f"calls_{name}",
            "sets": ["calls"],
            "here": name in there if data is not None else None,
            "data": files[0] if name in there else None,
            "about": about,
            "expected": [" and ".join(files)],
        }
        for name, (files, about) in SOURCES.items()
    ]


def _table(rows: list[dict[str, Any]], data: Path | None) -> Table:
    from ingle.evaluate.table import Table

    lines = []
    for row in rows:
        expected = " or ".join(row["expected"])
        found = expected if row["here"] is None else row["data"] if row["here"] else f"no {expected}"
        lines.append((row["task"], ", ".join(row["sets"]), found, row["about"]))
    titles = ("task", "in", "data" if data is not None else "data, if local", "")
    return Table(titles, tuple(lines), frozenset(range(4)))
