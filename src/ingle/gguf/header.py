"""The walk over a GGUF header: magic, version, metadata, tensor records.

Nothing here trusts the file. A count (each item has a least size) and a length are compared with the bytes that are
left before a loop or an allocation depends on them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap
from typing import Any, NoReturn

import numpy as np

from ingle.errors import GGUFError, UnsupportedError
from ingle.gguf.metadata import NUMPY_TYPES, SCALARS, Metadata, StringArray, TypedValue, Value, ValueType, printable
from ingle.gguf.signatures import describe_foreign
from ingle.gguf.types import UNSUPPORTED_TYPES, TensorType

__all__ = ["DEFAULT_ALIGNMENT", "MAX_ALIGNMENT", "Header", "TensorRecord", "read_header"]

DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_DIMENSIONS = 4

# Bounds that no real file comes near, against files of zeros (sparse ones cost nothing to make) that keep a walk busy.
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_NAME_BYTES = (1 << 16) - 1  # the specification's bound for keys
_MAX_STRING_BYTES = 64 << 20  # one string that is not in an array; the longest real ones are tokenizer JSONs
_MAX_STRINGS = 1 << 24  # in one array
_MAX_NESTING = 4
_MAX_NESTED_ARRAYS = 1 << 16  # in one array

_LEAST_KEY_BYTES = 8 + 4 + 1  # empty key, type, one-byte value
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # empty name, dimension count, one dimension, type, offset
_LEAST_ARRAY_BYTES = 4 + 8  # element type, count

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_AGAIN = "it is cut short or damaged, so download or convert it again"


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """What the header says about one tensor; `start` counts from the beginning of the file."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    n_bytes: int
    start: int


@dataclass(frozen=True, slots=True)
class Header:
    """All of a file but the tensors' data."""

    version: int
    metadata: Metadata
    alignment: int
    tensors: tuple[TensorRecord, ...]


def read_header(buffer: mmap, source: str) -> Header:
    """Walk the header in `buffer`, the map of the whole file called `source` in errors."""
    return _Walk(buffer, source).header()


class _Walk:
    """A position in the mapped file, which only moves forward and never past the end."""

    def __init__(self, buffer: mmap, source: str) -> None:
        self.buffer = buffer
        self.end = len(buffer)
        self.position = 0
        self.source = source

    # -- the parts of a file, in their order ---------------------------------------------------------------------

    def header(self) -> Header:
        version, n_tensors, n_keys = self.opening()
        metadata = self.key_values(n_keys)
        alignment = self.alignment(metadata)
        infos = self.tensor_infos(n_tensors)
        data_start = -(-self.position // alignment) * alignment
        return Header(version, metadata, alignment, self.placed(infos, data_start, alignment))

    def opening(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of keys."""
        magic = self.buffer[:4]
        if magic != b"GGUF":
            if len(magic) < 4:
                self.fail(f"is {self.end} bytes long, too short for a GGUF file: {_AGAIN}")
            what, remedy = describe_foreign(self.buffer[:64])
            self.fail(f'is not a GGUF file, which begins with "GGUF", but {what}: {remedy}')
        self.position = 4
        version = self.u32("the version")
        if version in (2 << 24, 3 << 24, 1 << 24):
            self.fail("is a big-endian GGUF file, and only little-endian ones are read: get or convert the usual kind")
        if version == 1:
            self.fail("has GGUF version 1, which was replaced in 2023; versions 2 and 3 are read: convert it again")
        if version not in (2, 3):
            self.fail(f"has GGUF version {version}, and versions 2 and 3 are read: update Ingle, or convert it again")
        n_tensors = self.count("tensors", _MAX_TENSORS, _LEAST_TENSOR_BYTES)
        n_keys = self.count("metadata keys", _MAX_KEYS, _LEAST_KEY_BYTES)
        return version, n_tensors, n_keys

    def key_values(self, n_keys: int) -> Metadata:
        entries: dict[str, TypedValue] = {}
        for index in range(n_keys):
            key = self.string(f"the name of metadata key {index}", _MAX_NAME_BYTES)
            if key in entries:
                self.fail(f'has the metadata key "{key}" twice: convert the model again')
            what = f'the metadata "{key}"'
            value_type = self.value_type(what)
            if value_type is ValueType.ARRAY:
                entries[key] = self.array(what, _MAX_NESTING)
            else:
                entries[key] = TypedValue(self.scalar(value_type, what), value_type)
        return Metadata(entries, self.source)

    def alignment(self, metadata: Metadata) -> int:
        alignment = metadata.get_int("general.alignment", DEFAULT_ALIGNMENT)
        if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self.fail(
                f"has general.alignment {alignment}, which must be a power of two from 8 to {MAX_ALIGNMENT}: "
                "convert the model again"
            )
        return alignment

    def tensor_infos(self, n_tensors: int) -> list[TensorRecord]:
        """The tensors' records, `start` still counted from the beginning of the data."""
        infos: dict[str, TensorRecord] = {}
        for index in range(n_tensors):
            name = self.string(f"the name of tensor {index}", _MAX_NAME_BYTES)
            if name in infos:
                self.fail(f'has the tensor "{name}" twice: convert the model again')
            infos[name] = self.tensor_info(name)
        return list(infos.values())

    def tensor_info(self, name: str) -> TensorRecord:
        what = f'the tensor "{name}"'
        n_dimensions = self.u32(what)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            self.fail(f"gives {what} {n_dimensions} dimensions, and 1 to {MAX_DIMENSIONS} are possible: {_AGAIN}")
        shape = tuple(self.u64(what) for _ in range(n_dimensions))[::-1]
        if 0 in shape:
            self.fail(f"gives {what} the empty shape {list(shape)}: convert the model again")
        type_id = self.u32(what)
        tensor_type = TensorType.from_id(type_id)
        if tensor_type is None:
            self.fail_type(what, type_id)
        if shape[-1] % tensor_type.weights_per_block:
            self.fail(
                f"stores {what} as {tensor_type.name}, {tensor_type.weights_per_block} weights per block, but its rows "
                f"have {shape[-1]} weights: convert the model again"
            )
        return TensorRecord(name, shape, tensor_type, tensor_type.n_bytes(shape), self.u64(what))

    def placed(self, infos: list[TensorRecord], data_start: int, alignment: int) -> tuple[TensorRecord, ...]:
        """The records with `start` counted from the beginning of the file, checked against it and each other."""
        reached, before = data_start, ""
        for info in sorted(infos, key=lambda info: info.start):
            start = data_start + info.start
            if info.start % alignment:
                self.fail(f'puts the tensor "{info.name}" at {info.start}, not a multiple of {alignment}: {_AGAIN}')
            if start + info.n_bytes > self.end:
                self.fail(
                    f'is {self.end} bytes long, but the tensor "{info.name}" reaches to byte {start + info.n_bytes}: '
                    f"{_AGAIN}"
                )
            if start < reached:
                self.fail(f'has the tensors "{before}" and "{info.name}" in the same bytes: convert the model again')
            reached, before = start + info.n_bytes, info.name
        return tuple(TensorRecord(i.name, i.shape, i.type, i.n_bytes, data_start + i.start) for i in infos)

    # -- values ---------------------------------------------------------------------------------------------------

    def value_type(self, what: str) -> ValueType:
        type_id = self.u32(what)
        try:
            return ValueType(type_id)
        except ValueError:
            self.fail(f"gives {what} the unknown value type {type_id}: update Ingle, or convert the model again")

    def scalar(self, value_type: ValueType, what: str) -> Value:
        if value_type is ValueType.STRING:
            return self.string(what, _MAX_STRING_BYTES)
        packed = SCALARS[value_type]
        start = self.advance(packed.size, what)
        if value_type is ValueType.BOOL and self.buffer[start] > 1:
            self.fail(f"gives {what}, a boolean, the value {self.buffer[start]} instead of 0 or 1: {_AGAIN}")
        value: Value = packed.unpack_from(self.buffer, start)[0]
        return value

    def array(self, what: str, nesting: int) -> TypedValue:
        element_type = self.value_type(what)
        value: Value
        if element_type is ValueType.STRING:
            value = self.strings(self.count(f"strings in {what}", _MAX_STRINGS, 8), what)
        elif element_type is ValueType.ARRAY:
            if nesting == 1:
                self.fail(f"nests arrays more than {_MAX_NESTING} deep in {what}: {_AGAIN}")
            count = self.count(f"arrays in {what}", _MAX_NESTED_ARRAYS, _LEAST_ARRAY_BYTES)
            value = tuple(self.array(what, nesting - 1) for _ in range(count))
        else:
            value = self.numbers(element_type, what)
        return TypedValue(value, ValueType.ARRAY, element_type)

    def numbers(self, element_type: ValueType, what: str) -> np.ndarray[Any, Any]:
        dtype = NUMPY_TYPES[element_type]
        count = self.count(f"numbers in {what}", self.end, dtype.itemsize)
        start = self.advance(count * dtype.itemsize, what)
        if element_type is not ValueType.BOOL:
            return np.frombuffer(self.buffer, dtype, count, start)
        flags = np.frombuffer(self.buffer, np.uint8, count, start)
        if count and flags.max() > 1:
            self.fail(f"gives {what}, booleans, the value {flags.max()} instead of 0 or 1: {_AGAIN}")
        return flags.view(np.bool_)

    def strings(self, count: int, what: str) -> StringArray:
        """Step over `count` strings. This loop is most of the time that opening a file takes."""
        length_at, buffer = _U64.unpack_from, self.buffer
        start = position = self.position
        last_length_at = self.end - 8
        for _ in range(count):
            if position > last_length_at:
                break
            position += 8 + length_at(buffer, position)[0]
        else:
            if position <= self.end:
                self.position = position
                return StringArray(buffer, start, position, count, f"{printable(what)} of {self.source}")
        self.fail(f"ends inside {what}: {_AGAIN}")

    # -- bytes ----------------------------------------------------------------------------------------------------

    def advance(self, n_bytes: int, what: str) -> int:
        """Step over `n_bytes`, and return where they start."""
        start = self.position
        if n_bytes > self.end - start:
            self.fail(f"ends inside {what}: {_AGAIN}")
        self.position = start + n_bytes
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.buffer, self.advance(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.buffer, self.advance(8, what))[0])

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A number of items of at least `least_bytes` each, which the rest of the file has to have room for."""
        count = self.u64(f"the number of {what}")
        if count > most or count * least_bytes > self.end - self.position:
            self.fail(f"announces {count} {what}, more than fit in its {self.end} bytes: {_AGAIN}")
        return count

    def string(self, what: str, most: int) -> str:
        n_bytes = self.u64(what)
        if n_bytes > most:
            self.fail(f"announces {n_bytes} bytes for {what}, and at most {most} are possible: {_AGAIN}")
        start = self.advance(n_bytes, what)
        try:
            return self.buffer[start : self.position].decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"has bytes that are not UTF-8 in {what}: {_AGAIN}")

    def fail(self, problem: str) -> NoReturn:
        raise GGUFError(f"{self.source} {printable(problem)}") from None

    def fail_type(self, what: str, type_id: int) -> NoReturn:
        if type_id in UNSUPPORTED_TYPES:
            known = ", ".join(t.name for t in TensorType)
            raise UnsupportedError(
                f"{self.source} stores {printable(what)} as {UNSUPPORTED_TYPES[type_id]}, and Ingle reads {known}: "
                "get the model in one of these types, such as Q4_K_M"
            ) from None
        self.fail(f"gives {what} the unknown type {type_id}: update Ingle, or convert the model again")
