"""Writing GGUF files: streamed, and never half a file under the final name.

The `gguf` package's GGUFWriter lays out the file; the tensors' bytes are taken from the caller piece by piece, so that
memory holds one piece at a time, however large the model.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ingle.errors import ModelFileError, UsageError
from ingle.gguf.header import DEFAULT_ALIGNMENT, MAX_DIMENSIONS
from ingle.gguf.metadata import NUMPY_TYPES, SCALARS, Metadata, TypedValue, Value, ValueType
from ingle.gguf.types import TensorType

__all__ = ["BytesLike", "TensorToWrite", "write_gguf"]

BytesLike: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor and where its bytes come from.

    `chunks` is called once, when the tensor's turn comes, and yields its bytes in order, in pieces of any size.
    """

    name: str
    #: rows first
    shape: tuple[int, ...]
    type: TensorType
    chunks: Callable[[], Iterable[BytesLike]]

    @property
    def n_bytes(self) -> int:
        return self.type.n_bytes(self.shape)


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Value | TypedValue],
    tensors: Iterable[TensorToWrite],
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a GGUF file (version 3) with these metadata and tensors, in their order.

    The file is written beside `path` under a temporary name and renamed when it is whole and on disk; on any failure,
    Ctrl-C included, the temporary file is removed and what was at `path` before is untouched. Metadata that come from a
    file keep their types; plain Python values get customary ones (`TypedValue.infer`). `on_bytes(n)` is called after
    every n bytes of tensor data; these sum to the tensors' `n_bytes`.

    Raises UsageError for metadata or tensors that GGUF cannot hold or that deliver another number of bytes than their
    shape says, and ModelFileError when the disk is full or does not take the file.
    """
    import gguf

    target = Path(path)
    entries = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
    records = list(tensors)
    _check(records)
    pairs = b"".join(_key_value(key, entries.typed(key)) for key in entries)
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target, len(pairs) + sum(tensor.n_bytes for tensor in records))

    writer = gguf.GGUFWriter(None, arch="")  # an empty name adds no key
    writer.data_alignment = entries.get_int("general.alignment", DEFAULT_ALIGNMENT)
    for key in entries:  # counted in the header; the values are written below
        writer.add_key_value(key, None, gguf.GGUFValueType.STRING)
    for tensor in records:
        type_id = gguf.GGMLQuantizationType(tensor.type.id)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, raw_dtype=type_id)

    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.partial")
    try:
        with _disk_errors(target):
            writer.write_header_to_file(partial)
            assert writer.fout is not None
            file = writer.fout[0]
            file.write(pairs)
            writer.state = gguf.gguf_writer.WriterState.KV_DATA
            writer.write_ti_data_to_file()
            writer.write_padding(file, file.tell())
        for tensor in records:
            for piece in _pieces(tensor):
                with _disk_errors(target):
                    file.write(piece)
                if on_bytes is not None:
                    on_bytes(len(piece))
            with _disk_errors(target):
                writer.write_padding(file, tensor.n_bytes)
        with _disk_errors(target):
            file.flush()
            os.fsync(file.fileno())
            writer.close()
            os.replace(partial, target)
            _sync_directory(target.parent)
    except BaseException:
        with suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
            writer.close()
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _pieces(tensor: TensorToWrite) -> Iterator[memoryview]:
    """The tensor's bytes as they come, and a UsageError as soon as they are too many or turn out too few."""
    n_bytes = 0
    for chunk in tensor.chunks():
        array = chunk if isinstance(chunk, np.ndarray) else np.frombuffer(chunk, np.uint8)
        piece = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        n_bytes += len(piece)
        if n_bytes > tensor.n_bytes:
            break
        yield piece
    if n_bytes != tensor.n_bytes:
        raise UsageError(
            f'the tensor "{tensor.name}", {tensor.type.name} of shape {list(tensor.shape)}, is {tensor.n_bytes} bytes, '
            f"but {'at least ' if n_bytes > tensor.n_bytes else ''}{n_bytes} were given"
        )


def _check(tensors: list[TensorToWrite]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if not tensor.name or tensor.name in names:
            raise UsageError(f'the tensor name "{tensor.name}" is empty or given twice: name each tensor once')
        names.add(tensor.name)
        if not 1 <= len(tensor.shape) <= MAX_DIMENSIONS or min(tensor.shape) < 1:
            raise UsageError(
                f'the tensor "{tensor.name}" has the shape {list(tensor.shape)}, and GGUF holds 1 to {MAX_DIMENSIONS} '
                "dimensions of at least 1"
            )
        tensor.type.row_bytes(tensor.shape[-1])


# -- metadata ----------------------------------------------------------------------------------------------------------
# Encoded here because the gguf package refuses empty arrays and guesses the types of nested ones.


def _key_value(key: str, entry: TypedValue) -> bytes:
    try:
        return _string(key) + struct.pack("<I", entry.type) + _value(entry)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        kind = entry.type if entry.element_type is None else entry.element_type
        raise UsageError(f'the metadata "{key}" does not fit its type {kind.name.lower()}: {error}') from None


def _value(entry: TypedValue) -> bytes:
    value: Any = entry.value
    if entry.type is ValueType.STRING:
        return _string(value)
    if entry.type is not ValueType.ARRAY:
        return SCALARS[entry.type].pack(value)
    if entry.element_type is None:
        raise ValueError("an array needs an element type")
    head = struct.pack("<IQ", entry.element_type, len(value))
    if entry.element_type is ValueType.STRING:
        return head + b"".join(map(_string, value))
    if entry.element_type is ValueType.ARRAY:
        return head + b"".join(_value(TypedValue.infer(element)) for element in value)
    return head + _numbers(value, NUMPY_TYPES[entry.element_type])


def _string(value: str) -> bytes:
    encoded = value.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _numbers(values: Any, dtype: np.dtype[Any]) -> bytes:
    given = np.asarray(values)
    packed = given.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(packed, given):
        raise ValueError("a number is out of range or has a fraction")
    return packed.tobytes()


# -- disk --------------------------------------------------------------------------------------------------------------


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Turns the failures of writing `target` into sentences; those of the caller's own callbacks stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = "the disk or quota is full: free some space, or choose another directory"
        elif error.errno == errno.EFBIG:
            problem = "the file is larger than the file system or a limit allows: choose another directory"
        else:
            problem = f"{error.strerror or error}: check the directory and its permissions"
        raise ModelFileError(f"{target} cannot be written, because {problem}") from None


def _check_space(target: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if n_bytes > free:
        raise ModelFileError(
            f"{target} needs {n_bytes / 2**30:.2f} GiB, and its disk has {free / 2**30:.2f} GiB free: "
            "free some space, or choose another directory"
        )


def _sync_directory(directory: Path) -> None:
    """Make the new name last through a power cut, where directories can be synchronised."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
