"""Reading GGUF files: everything checked, nothing copied.

`open_gguf` maps the file (all parts of a split one) and walks its header once. Tensor data are views of the map, so
opening a file of any size costs the walk over its header alone.

A file should not be truncated while it is open: touching a mapped page that is gone ends the process (SIGBUS). Ingle
itself only ever replaces files whole, and loads a model by reading (`FileBytes`), where that is an error like others.
"""

from __future__ import annotations

import errno
import mmap as mmap_module
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import MAP_PRIVATE, PROT_READ, mmap
from pathlib import Path
from types import MappingProxyType, TracebackType

import numpy as np
import numpy.typing as npt

from ingle.errors import GGUFError, UsageError
from ingle.gguf.header import Header, read_header
from ingle.gguf.metadata import Metadata, printable
from ingle.gguf.types import TensorType

__all__ = ["FileBytes", "GGUFFile", "TensorInfo", "open_gguf", "release_pages"]

_PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


class OpenFile:
    """A file open for reading until the last reference to this goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        self._opened = _version(self.descriptor)

    def check_unchanged(self) -> None:
        """Raise GGUFError when the file was written to, or cut short, since it was opened.

        What was read before this call was then in it when it was opened. Another file in its place changes nothing.
        """
        try:
            unchanged = _version(self.descriptor) == self._opened
        except OSError as error:
            raise GGUFError(f"{self.path} cannot be examined any more ({error.strerror}): check the disk") from None
        if not unchanged:
            raise GGUFError(
                f"{self.path} was written to while it was in use, so its weights cannot be trusted: load the model "
                "again, after downloading or converting it again if need be"
            )

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # there is no `os` when the interpreter ends
        if hasattr(self, "descriptor"):
            close(self.descriptor)


def _version(descriptor: int) -> tuple[int, int]:
    """What changes with each writing: size, and the time of the last."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class FileBytes:
    """A stretch of an open file, to be read: what was read stays in no map of this process."""

    file: OpenFile
    offset: int
    n_bytes: int

    def read(self) -> npt.NDArray[np.uint8]:
        """uint8[n_bytes], read-only; GGUFError when the file has become shorter or the disk fails."""
        pieces: list[bytes] = []  # one, unless the system reads less than it is asked for
        left = self.n_bytes
        try:
            while left > 0:
                pieces.append(os.pread(self.file.descriptor, left, self.offset + self.n_bytes - left))
                if not pieces[-1]:
                    raise OSError(errno.ENODATA, "")
                left -= len(pieces[-1])
        except OSError as error:
            raise self.unreadable(error) from None
        return np.frombuffer(b"".join(pieces), np.uint8)

    def part(self, start: int, stop: int) -> FileBytes:
        """Bytes [start, stop) of these."""
        return FileBytes(self.file, self.offset + start, stop - start)

    def unreadable(self, error: OSError) -> GGUFError:
        """What to raise for an `error` of the system; ENODATA means that the file ends."""
        what = "it ends before them" if error.errno == errno.ENODATA else error.strerror
        return GGUFError(
            f"{self.file.path} changed or failed while it was read: expected {self.n_bytes} bytes at {self.offset}, "
            f"but {what}: check the disk, or download or convert the file again"
        )


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: what it is, where it lies, and a view of its bytes."""

    name: str
    #: rows first, the weights of one row last (NumPy order; the file stores the reverse)
    shape: tuple[int, ...]
    type: TensorType
    #: where the tensor lies in its file (a part, for a split one)
    stored: FileBytes
    #: uint8[n_bytes], a read-only view of the memory map
    data: npt.NDArray[np.uint8] = field(repr=False, compare=False)

    @property
    def n_bytes(self) -> int:
        return self.stored.n_bytes

    @property
    def path(self) -> Path:
        """The file that holds the tensor."""
        return self.stored.file.path

    @property
    def offset(self) -> int:
        """Where in the file the first byte is."""
        return self.stored.offset


class GGUFFile:
    """An open GGUF file. Use it as a context manager, or call `close`.

    Views handed out before `close` stay valid: the memory map goes when the last of them does.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        metadata: Metadata,
        tensors: Mapping[str, TensorInfo],
        maps: tuple[mmap, ...],
    ) -> None:
        #: the file, or its parts in order
        self.paths = paths
        #: the key-value pairs, without those that number the parts of a split file
        self.metadata = metadata
        #: bytes of all parts together
        self.n_bytes = sum(len(part) for part in maps)
        self._maps = maps
        self._tensors: Mapping[str, TensorInfo] | None = MappingProxyType(dict(tensors))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors by name, in the order of the file; UsageError after `close`."""
        if self._tensors is None:
            raise UsageError(f"{self.paths[0]} was closed: open it again to read its tensors")
        return self._tensors

    def release(self) -> None:
        """Give the pages read so far back to the system; they stay in its cache, and reading them again is allowed."""
        for part in self._maps:
            release_pages(part)

    def close(self) -> None:
        """Let go of the tensors; a second call does nothing."""
        self._tensors = None
        self._maps = ()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        tensors = "closed" if self._tensors is None else f"{len(self._tensors)} tensors"
        return f"GGUFFile({self.paths[0].name}, {tensors}, {self.n_bytes} bytes)"


@dataclass(frozen=True, slots=True)
class _Part:
    """One mapped file and its header."""

    file: OpenFile
    buffer: mmap
    header: Header

    @property
    def path(self) -> Path:
        return self.file.path

    @classmethod
    def open(cls, path: Path) -> _Part:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
                raise GGUFError(f"{path} is not a file but a directory or device: give the path of a .gguf file")
            if status.st_size == 0:
                raise GGUFError(f"{path} is empty (0 bytes) where a GGUF file was expected: download it again")
            file = OpenFile(path)
            # private: what FUSE offers everywhere
            buffer = mmap(file.descriptor, 0, MAP_PRIVATE, PROT_READ)
        except FileNotFoundError:
            raise GGUFError(f"there is no file {path}: check the path of the GGUF file") from None
        except (OSError, ValueError) as error:
            limited = isinstance(error, OSError) and error.errno == errno.ENOMEM  # by `ulimit -v`: maps count
            remedy = "raise the limit on this process's memory" if limited else "check its permissions and the disk"
            raise GGUFError(f"{path} cannot be read ({error}): {remedy}") from None
        return cls(file, buffer, read_header(buffer, str(path)))

    @property
    def number(self) -> int:
        """Which part this is, from 0."""
        return self.header.metadata.get_int("split.no", 0)

    @property
    def count(self) -> int:
        """How many parts there are; 1 for a file that is not split."""
        return self.header.metadata.get_int("split.count", 1)

    def tensors(self) -> dict[str, TensorInfo]:
        data = np.frombuffer(self.buffer, np.uint8)
        return {
            t.name: TensorInfo(
                t.name, t.shape, t.type, FileBytes(self.file, t.start, t.n_bytes), data[t.start : t.start + t.n_bytes]
            )
            for t in self.header.tensors
        }


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Open a GGUF file, or all parts of a split one by its first part (`...-00001-of-0000N.gguf`).

    Raises GGUFError when there is no sound GGUF file, and UnsupportedError when a tensor has a type that Ingle does not
    read.
    """
    first = _Part.open(Path(path))
    parts = [first]
    if first.count > 1:
        stem = _stem(first)
        parts += [_next_part(first, stem, number) for number in range(1, first.count)]

    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        for name, info in part.tensors().items():
            if name in tensors:
                raise GGUFError(
                    f'the tensor "{printable(name)}" is both in {tensors[name].path} and in {part.path}: download '
                    "all parts of one model again"
                )
            tensors[name] = info
    announced = first.header.metadata.get_int("split.tensors.count", len(tensors))
    if len(parts) > 1 and announced != len(tensors):
        raise GGUFError(
            f"{first.path} announces {announced} tensors, but its {len(parts)} parts hold {len(tensors)}: download all "
            "parts of one model again"
        )
    metadata = first.header.metadata.updated({}, remove=_SPLIT_KEYS)
    return GGUFFile(tuple(p.path for p in parts), metadata, tensors, tuple(p.buffer for p in parts))


def release_pages(mapped: mmap) -> None:
    """Take a read-only map's pages out of this process's memory, where the system has a way to say so."""
    option = getattr(mmap_module, "MADV_DONTNEED", None)
    if option is not None:
        mapped.madvise(option)


def _stem(first: _Part) -> str:
    """What the names of all parts begin with; GGUFError unless `first` is the first part and named like it."""
    name = _PART_NAME.fullmatch(first.path.name)
    stem = first.path.name.removesuffix(".gguf") if name is None else name["stem"]
    first_name = _part_name(stem, 0, first.count)
    if first.number != 0:
        raise GGUFError(
            f"{first.path} is part {first.number + 1} of {first.count} of a split file: open the first, {first_name}"
        )
    if first.path.name != first_name:
        raise GGUFError(
            f"{first.path} is the first of {first.count} parts, which are found by their names, so it must be called "
            f"{first_name}: give all parts their original names"
        )
    return stem


def _part_name(stem: str, number: int, count: int) -> str:
    return f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"


def _next_part(first: _Part, stem: str, number: int) -> _Part:
    path = first.path.with_name(_part_name(stem, number, first.count))
    if not path.exists():
        raise GGUFError(
            f"{first.path} is the first of {first.count} parts, but part {number + 1}, {path.name}, is not beside it: "
            "download all parts into one directory"
        )
    part = _Part.open(path)
    if (part.number, part.count) != (number, first.count):
        raise GGUFError(
            f"{path} should be part {number + 1} of {first.count}, but says it is part {part.number + 1} of "
            f"{part.count}: download all parts of one model again"
        )
    return part
