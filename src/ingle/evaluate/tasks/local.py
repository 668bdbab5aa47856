"""The data of a task from local files: which file, which items, and its rows. Nothing is fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ingle.errors import DataError
from ingle.evaluate.tasks.catalog import TASKS, KnownFile
from ingle.evaluate.tasks.forms import Converted, Row, convert
from ingle.files import json_objects, read_bytes

__all__ = ["Source", "find_source", "read_rows", "read_source"]

MAX_BYTES = 2**28  # of a file
MAX_LINE = 2**22  # bytes of a row; RACE's and BoolQ's longest are some KiB


@dataclass(frozen=True, slots=True)
class Source:
    """Where the items of a task are. known: the file, where it is one that some project publishes. train: where
    examples come from, if not from the items themselves."""

    task: str
    folder: Path
    file: Path
    known: KnownFile | None = None
    train: Path | None = None

    def describe(self, n_items: int) -> str:
        """Which items these are, in words, where the file has so many."""
        return f"the {n_items:,} items of the file" if self.known is None else self.known.describe(n_items)

    @property
    def name(self) -> str:
        """The file as a person would name it, from the data folder on."""
        return self.file.relative_to(self.folder).as_posix()


def find_source(task: str, folder: Path) -> Source | None:
    """The file that holds `task`'s items: `<task>.jsonl`, or one that the catalog knows. None where there is none.

    The folder has them, or holds them as `eval/`: so one folder can be the data of all evaluations (those of API calls
    are in `api_calls/`). Raises DataError where `folder` is no folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with the data of the tasks.")
    entry = TASKS.get(task)
    files: dict[str, KnownFile | None] = {f"{task}.jsonl": None}
    files |= {known.path: known for known in (entry.files if entry is not None else ())}
    examples = [f"{task}.train.jsonl", *([entry.train] if entry is not None and entry.train else [])]
    for root in (folder, folder / "eval"):
        for path, known in files.items():
            if (root / path).is_file():
                train = next((root / name for name in examples if (root / name).is_file()), None)
                return Source(task, root, root / path, known, train)
    return None


def read_source(source: Source) -> tuple[Converted, list[Row] | None]:
    """The items in Hugging Face's columns, and the examples that may come before a question if they have a file.

    Raises DataError for files that cannot be read or hold something else.
    """
    rows = read_rows(source.file)
    if source.task == "piqa" and "label" not in rows[0]:
        rows = _with_labels(rows, source.file)
    items = convert(source.task, rows, source.name)
    if source.train is None:
        return items, None
    return items, convert(source.task, read_rows(source.train), source.train.name).rows


def read_rows(path: Path) -> list[Row]:
    """The objects of a JSON Lines file, or of a `.json` file that is one array of objects; at least one.

    Raises DataError that names the line.
    """
    if path.suffix == ".json":
        rows = _array(path)
    else:
        try:
            with path.open("rb") as file:
                rows = [row for _, row in json_objects(file, path.name, MAX_LINE, MAX_BYTES)]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if not rows:
        raise DataError(f"{path.name} has no items; expected a JSON object on each line.")
    return rows


def _array(path: Path) -> list[Row]:
    try:
        value = json.loads(read_bytes(path, MAX_BYTES, advice="expected the items of a task"))
    except (ValueError, RecursionError):
        raise DataError(f"{path.name} is not JSON.") from None
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path.name} is no array of JSON objects.")
    return value


def _with_labels(rows: list[Row], path: Path) -> list[Row]:
    """PIQA as its authors publish it: the labels stand in a second file, one a line."""
    labels = path.with_name(f"{path.stem}-labels.lst")
    found = read_bytes(labels, MAX_BYTES, advice=f"{path.name} has no labels, so they are needed").split()
    if len(found) != len(rows) or not set(found) <= {b"0", b"1"}:
        raise DataError(f"{labels.name} has {len(found)} labels; expected one, 0 or 1, for each of {len(rows)} items.")
    return [{**row, "label": int(label)} for row, label in zip(rows, found, strict=True)]
