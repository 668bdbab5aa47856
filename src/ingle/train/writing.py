"""Files and folders that appear whole or not at all: written beside their place, onto the disk itself, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["beside", "sync_folder", "write_file", "write_whole"]


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file, text as UTF-8, onto the disk itself. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file that is whole, or as it was before. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    try:
        write_file(part, data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
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
