"""A folder that appears whole or not at all, whoever else builds it at the same time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ingle.errors import DataError
from ingle.files import sync_folder, write_whole
from ingle.train.data.shard_format import META, SIDES

__all__ = ["building", "disk_errors", "rename_whole", "require_replaceable", "write_meta"]

_ASIDE = ".{}.partial"


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """An empty folder `.NAME.partial` beside `folder`, held by this process alone, to be renamed or else removed.

    Waits while another process builds the same. The lock is on the folder itself, so a killed process leaves no lock:
    whoever comes next gets the folder and empties it.
    """
    partial = folder.with_name(_ASIDE.format(folder.name))
    with disk_errors(folder):
        handle = _locked(partial)
    try:
        with disk_errors(folder):
            for entry in partial.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        yield partial
    finally:
        if _is_at(handle, partial):  # not renamed; were it renamed, this might be the folder of the next process
            shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def _locked(partial: Path) -> int:
    partial.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial.mkdir(exist_ok=True)
        try:
            handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # just renamed or removed by the process that held it
            continue
        try:
            _lock(handle)
            if _is_at(handle, partial):
                return handle
            os.close(handle)
        except BaseException:
            os.close(handle)
            raise


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:  # a network file system without locks: let a single process build there
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise


def _is_at(handle: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    return False


def rename_whole(partial: Path, folder: Path) -> None:
    """Give the built folder its name; what had the name before is removed. Called within `building`."""
    before = folder.with_name(f".{folder.name}.replaced.partial")
    with disk_errors(folder):
        for directory in (*(partial / side for side in SIDES), partial):
            sync_folder(directory)
        if before.exists():  # of a process killed between the two renames
            shutil.rmtree(before)
        if folder.exists():
            folder.rename(before)
        partial.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(before, ignore_errors=True)


def require_replaceable(folder: Path) -> None:
    """Raises DataError unless `folder` is absent, empty or a folder of shards: nothing else is ever deleted."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise DataError(f"{folder} is to be a folder of token shards, and is something else: choose another folder.")
    others = {entry.name for entry in folder.iterdir()} - {META, f".{META}.part", *SIDES}
    if others:
        raise DataError(f"{folder} holds other files ({min(others)}): choose another folder for the token shards.")


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json, whole."""
    with disk_errors(folder):
        write_whole(folder / META, json.dumps(meta, indent=1, ensure_ascii=False))


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns the failures of writing into sentences, which name the folder that is built also while it is aside."""
    try:
        yield
    except OSError as error:
        before, after = _ASIDE.split("{}")
        name = folder.name
        if name.startswith(before) and name.endswith(after):
            folder = folder.with_name(name.removeprefix(before).removesuffix(after))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = "the disk or quota is full: free some space, or choose another folder"
        elif error.errno == errno.EFBIG:
            problem = "a file is larger than the file system or a limit allows: choose another folder"
        else:
            problem = f"{error.strerror or error}: check the folder and its permissions"
        raise DataError(f"The token shards cannot be written to {folder}, because {problem}.") from None
