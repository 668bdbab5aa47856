"""Where documents come from: files, folders, archives, and Hugging Face data sets by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ingle.errors import DataError, UsageError
from ingle.train.data.document import Document, Segment
from ingle.train.data.files import ENDINGS, Count, decoded, find_files, kind_of, members, opened
from ingle.train.data.json_records import Broken, json_lines, json_values, parquet_rows
from ingle.train.data.records import read_record
from ingle.train.data.texts import split_documents

__all__ = ["HUB", "Document", "Segment", "Source", "read_documents", "source_bytes", "source_files"]

#: Only names with this prefix are looked for on the internet.
HUB = "hf:"


@dataclass(frozen=True, slots=True)
class Source:
    """Something to read documents from.

    path_or_name: a file, a folder, or "hf:NAME" or "hf:NAME/CONFIG" for a Hugging Face data set.
    licence: of what has no licence of its own; None for what the source itself says (a README beside it).
    weight: how often its documents are seen, relative to other sources.
    text_field: the field of a record that is the document, whatever other fields there are.
    split: of a Hugging Face data set.
    """

    path_or_name: str
    licence: str | None = None
    weight: float = 1.0
    text_field: str | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if not self.path_or_name:
            raise UsageError("Expected the name of a file, a folder or a data set, got nothing.")
        if not (isinstance(self.weight, int | float) and 0 < self.weight < 1e9):
            raise UsageError(f"The weight of {self.path_or_name} is {self.weight!r}; expected a positive number.")


def read_documents(source: Source, *, broken: Broken | None = None, count: Count | None = None) -> Iterator[Document]:
    """The documents of a source, in a fixed order, one at a time.

    Text files hold documents between lines `<|endoftext|>` (or one document); JSON Lines, JSON and Parquet hold
    records, which `records.read_record` explains. A folder or an archive is all its files by name.

    `broken` is called with the error about each record, or rest of a file, that cannot be read, and reading goes on
    behind it; without it the first such error is raised. `count` is told how many bytes were read from disk.
    Raises DataError for what is missing, unreadable, or without a single document.
    """
    found, first = False, ""

    def noted(error: DataError) -> None:
        nonlocal first
        first = first or str(error)
        if broken is None:
            raise error
        broken(error)

    for document in _all_documents(source, noted, count):
        found = True
        yield document
    if not found and first:
        raise DataError(f"{source.path_or_name} has no document that can be read; the first error: {first}")
    if not found:
        raise DataError(f"{source.path_or_name} has no document in it; give a source with text.")


def source_files(source: Source) -> list[Path]:
    """The files of a source in the order they are read; none for a data set by name. Raises DataError."""
    return [] if source.path_or_name.startswith(HUB) else find_files(Path(source.path_or_name))


def source_bytes(source: Source) -> int | None:
    """The size on disk of all its files, for a bar; None for a data set by name."""
    files = source_files(source)
    return sum(file.stat().st_size for file in files) if files else None


def _all_documents(source: Source, broken: Broken, count: Count | None) -> Iterator[Document]:
    if source.path_or_name.startswith(HUB):
        from ingle.train.data.hub import hub_records

        name, records, card_licence = hub_records(source.path_or_name.removeprefix(HUB), source.split)
        yield from _from_records(records, name, source, source.licence or card_licence, broken, "row ")
        return
    for file in source_files(source):
        licence = source.licence or licence_beside(file)
        try:
            yield from _from_file(file, source, licence, broken, count)
        except DataError as error:
            broken(error)


def _from_file(
    file: Path, source: Source, licence: str | None, broken: Broken, count: Count | None
) -> Iterator[Document]:
    kind = kind_of(file.name)
    if kind == "archive":
        empty = True
        for name, stream in members(file, count):
            empty = False
            yield from _from_stream(stream, f"{file}/{name}", name, source, licence, broken)
        if empty:
            raise DataError(f"{file} has no file in it that can be read; expected ones that end in {ENDINGS}.")
    elif kind == "parquet":
        yield from _from_records(parquet_rows(file, count), str(file), source, licence, broken, "row ")
    else:
        with opened(file, count) as stream:
            yield from _from_stream(stream, str(file), file.name, source, licence, broken)


def _from_stream(
    stream: IO[bytes], name: str, file_name: str, source: Source, licence: str | None, broken: Broken
) -> Iterator[Document]:
    kind = kind_of(file_name)
    try:
        if kind == "text":
            for line, text in split_documents(decoded(stream, name)):
                yield Document((Segment(text),), f"{name}:{line}", licence)
            return
        records = json_lines(stream, name, broken) if kind == "lines" else json_values(decoded(stream, name), name)
        yield from _from_records(records, name, source, licence, broken, "")
    except DataError as error:  # the other files of an archive may still be sound
        broken(error)


def _from_records(
    records: Iterable[tuple[int, Any]], name: str, source: Source, licence: str | None, broken: Broken, unit: str
) -> Iterator[Document]:
    for number, record in records:
        origin = f"{name}:{unit}{number}"
        try:
            document = read_record(record, origin, text_field=source.text_field, licence=licence)
        except DataError as error:
            broken(error)
        else:
            yield document


def licence_beside(file: Path) -> str | None:
    """What the folder of a file says of its licence: the field in a data set card (README.md), or a licence file."""
    with suppress(OSError, UnicodeDecodeError):
        with (file.parent / "README.md").open(encoding="utf-8") as card:
            start = card.read(1 << 16)
        front = re.match(r"---\n(.*?\n)---\n", start, re.DOTALL)
        field = front and re.search(r"^licen[sc]e: *[\"']?([^\s\"'#].*?)[\"']?\s*$", front[1], re.MULTILINE)
        if field:
            return field[1]
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"):
        if (file.parent / name).is_file():
            return f"see {name}"
    return None
