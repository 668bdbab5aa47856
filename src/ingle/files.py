"""Files from outside, read within a bound; and files and folders that appear whole or not at all.

What is written goes beside its place, onto the disk itself, and is then renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ingle.errors import DataError, IngleError

__all__ = ["beside", "json_objects", "read_bytes", "sync_folder", "write_file", "write_whole"]


_PIECE = 1 << 16


class Lines(Protocol):
    """What lines of bytes can be read from."""

    def readline(self, size: int, /) -> bytes: ...


def read_bytes(path: Path, limit: int, error: type[IngleError] = DataError, advice: str = "") -> bytes:
    """All bytes of a file.

    Raises `error` where it cannot be read or has more than `limit` bytes; `advice` ends the sentence then.
    """
    advice = f"; {advice}." if advice else "."
    try:
        with path.open("rb") as file:
            # Not `read(limit + 1)`, which takes that much memory first. What has no size (a pipe) comes in pieces.
            parts = [file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)]
            left = limit - len(parts[0])
            while left >= 0 and (part := file.read(min(_PIECE, left + 1))):
                parts.append(part)
                left -= len(part)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}{advice}") from None
    if left < 0:
        raise error(f"{path} is larger than {limit:,} bytes{advice}")
    return b"".join(parts)


def json_objects(file: Lines, name: str, longest: int, limit: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for each line of JSON Lines that is not empty; `where` is "name, line 7".

    Reads no further than `limit` bytes, and no line further than `longest`: a packed file of a few KiB may hold a line
    of many GiB. Raises DataError, which names the line.
    """
    left = limit
    for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), start=1):
        where = f"{name}, line {number}"
        if len(line) > longest:
            raise DataError(f"{where} has more than {longest:,} bytes; expected a JSON object in each line.")
        left -= len(line)
        if left < 0:
            raise DataError(f"{name} has more than {limit:,} bytes; give a part of it.")
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{where} is not JSON; expected an object.") from None
        if not isinstance(record, dict):
            raise DataError(f"{where} is {type(record).__name__}; expected a JSON object.")
        yield where, record


def write_file(path: Path, data: str | bytes | Iterable[str]) -> None:
    """Write a file, text (also in pieces) as UTF-8, onto the disk itself. Raises OSError."""
    with open(path, "wb") as file:
        for piece in (data,) if isinstance(data, str | bytes) else data:
            file.write(piece.encode() if isinstance(piece, str) else piece)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: str | bytes | Iterable[str]) -> None:
    """Write a file that is whole, or as it was before. Raises OSError, with the file's name."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        write_file(part, data)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # writing says none, and opening that of the part
        raise


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder to fill; it takes `place`'s name when all went well, and is gone when not."""
    part, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        sync_folder(part)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
        part.rename(place)
        sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk itself, so that they last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
