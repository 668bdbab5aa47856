"""GGUF metadata: typed key-value pairs, with getters that say what is wrong with a file.

The file's own value types are kept beside the values, so that a rewritten file has the same types bit for bit
(a uint32 stays a uint32).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from mmap import mmap
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ingle.errors import GGUFError, UsageError

__all__ = ["Metadata", "StringArray", "TypedValue", "Value", "ValueType"]


class ValueType(IntEnum):
    """The metadata value types of GGUF, by their ids in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


#: What one value is in Python. Arrays of numbers are NumPy arrays, arrays of strings are sequences of str, arrays of
#: arrays are tuples.
Value: TypeAlias = "str | int | float | bool | npt.NDArray[Any] | Sequence[str] | Sequence[Any]"

#: NumPy's type for each numeric value type, as laid out in the file.
NUMPY_TYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("<u1"),
    ValueType.INT8: np.dtype("<i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}
#: The same for one value. NumPy's own letters do not serve: its 64-bit one on Linux is struct's 32-bit one.
SCALARS: dict[ValueType, struct.Struct] = {
    value_type: struct.Struct("<" + code) for value_type, code in zip(NUMPY_TYPES, "BbHhIif?Qqd", strict=True)
}
_FROM_NUMPY = {dtype: value_type for value_type, dtype in NUMPY_TYPES.items()}
_INTEGERS = frozenset(t for t in NUMPY_TYPES if t not in (ValueType.FLOAT32, ValueType.FLOAT64, ValueType.BOOL))
_FLOATS = frozenset((ValueType.FLOAT32, ValueType.FLOAT64))


def printable(text: str) -> str:
    """`text` for an error message: names come from the file, and may hold line breaks or terminal codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class StringArray(Sequence[str]):
    """An array of strings in a memory map whose bounds were checked, decoded when first used.

    A vocabulary has 100 000 strings and more; most openings of a file never look at them.
    """

    def __init__(self, buffer: mmap, start: int, end: int, count: int, what: str) -> None:
        self._buffer = buffer
        self._start = start
        self._end = end
        self._count = count
        self._what = what
        self._decoded: list[str] | None = None

    def _strings(self) -> list[str]:
        if self._decoded is None:
            raw = self._buffer[self._start : self._end]
            length_at = struct.Struct("<Q").unpack_from
            decoded: list[str] = []
            position = 0
            for index in range(self._count):
                start = position + 8
                position = start + length_at(raw, position)[0]
                try:
                    decoded.append(raw[start:position].decode("utf-8"))
                except UnicodeDecodeError:
                    raise GGUFError(
                        f"string {index} of {self._what} is not UTF-8: the file is damaged or was written wrongly, "
                        "so download or convert it again"
                    ) from None
            self._decoded = decoded
        return self._decoded

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._strings()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._strings())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and self._strings() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StringArray({self._count} strings)"


@dataclass(frozen=True, slots=True, eq=False)
class TypedValue:
    """A value with its GGUF type. `element_type` is given for arrays (ARRAY for arrays of arrays) and only for them."""

    value: Value
    type: ValueType
    element_type: ValueType | None = None

    @classmethod
    def infer(cls, value: Value | TypedValue) -> TypedValue:
        """`value` with the type that GGUF files customarily give it.

        int is uint32, or int32, uint64, int64 where it must be; float is float32; a list of int is int32, or int64
        where it must be; a list of float is float32; NumPy arrays and scalars keep their own type.
        """
        if isinstance(value, TypedValue):
            return value
        if isinstance(value, (bool, np.bool_)):
            return cls(bool(value), ValueType.BOOL)
        if isinstance(value, str):
            return cls(value, ValueType.STRING)
        if isinstance(value, np.generic):
            return cls(value.item(), _numpy_value_type(value.dtype))
        if isinstance(value, int):
            return cls(value, _integer_type(value))
        if isinstance(value, float):
            return cls(value, ValueType.FLOAT32)
        if isinstance(value, np.ndarray):
            if value.ndim != 1:
                raise UsageError(f"a metadata array has one dimension, not {value.ndim}: flatten it")
            return cls(value, ValueType.ARRAY, _numpy_value_type(value.dtype))
        if isinstance(value, StringArray):
            return cls(value, ValueType.ARRAY, ValueType.STRING)
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            return cls(value, ValueType.ARRAY, _element_type(value))
        raise UsageError(f"metadata holds strings, numbers, booleans and arrays of them, not {type(value).__name__}")


def _numpy_value_type(dtype: np.dtype[Any]) -> ValueType:
    value_type = _FROM_NUMPY.get(dtype.newbyteorder("<"))
    if value_type is None:
        raise UsageError(f"metadata arrays hold integers, float32, float64 and booleans, not {dtype}: convert it first")
    return value_type


def _integer_type(value: int) -> ValueType:
    for value_type in (ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64):
        bounds = np.iinfo(NUMPY_TYPES[value_type])
        if bounds.min <= value <= bounds.max:
            return value_type
    raise UsageError(f"the integer {value} does not fit the 64 bits that metadata has")


def _element_type(values: Sequence[Any]) -> ValueType:
    if not values:
        raise UsageError("an empty list has no element type: give a TypedValue or an empty NumPy array")
    if all(isinstance(v, str) for v in values):
        return ValueType.STRING
    if all(isinstance(v, bool) for v in values):
        return ValueType.BOOL
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return ValueType.INT32 if all(-(2**31) <= v < 2**31 for v in values) else ValueType.INT64
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return ValueType.FLOAT32
    if all(isinstance(v, (TypedValue, np.ndarray, list, tuple)) for v in values):
        return ValueType.ARRAY
    raise UsageError("the elements of a metadata array must all have one type")


_REQUIRED: Any = object()
_Default = TypeVar("_Default")


class Metadata(Mapping[str, Value]):
    """The key-value pairs of a GGUF file, in the file's order, with their types.

    The `get_*` methods return the value of a key when it has the wanted type, `default` when the key is missing and a
    default is given, and raise GGUFError (naming the file) otherwise.
    """

    def __init__(self, entries: Mapping[str, Value | TypedValue], source: str = "the metadata") -> None:
        self._entries = {key: TypedValue.infer(value) for key, value in entries.items()}
        self._source = source

    def __getitem__(self, key: str) -> Value:
        return self._entries[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Metadata({len(self)} keys of {self._source})"

    def type_of(self, key: str) -> ValueType:
        """The GGUF type of `key`'s value (KeyError when there is no such key)."""
        return self._entries[key].type

    def typed(self, key: str) -> TypedValue:
        """The value of `key` with its GGUF types, ready to be written again."""
        return self._entries[key]

    def updated(self, changes: Mapping[str, Value | TypedValue], remove: Iterable[str] = ()) -> Metadata:
        """A copy without the keys in `remove` and with `changes`; all else keeps its value, type and place."""
        removed = set(remove)
        kept: dict[str, Value | TypedValue] = {k: v for k, v in self._entries.items() if k not in removed}
        return Metadata(kept | dict(changes), self._source)

    def get_int(self, key: str, default: _Default = _REQUIRED) -> int | _Default:
        """An integer of any width."""
        found = self._find(key, default, "an integer", _INTEGERS)
        return default if found is None else int(found)

    def get_float(self, key: str, default: _Default = _REQUIRED) -> float | _Default:
        """A floating-point number; an integer counts as one."""
        found = self._find(key, default, "a number", _FLOATS | _INTEGERS)
        return default if found is None else float(found)

    def get_bool(self, key: str, default: _Default = _REQUIRED) -> bool | _Default:
        """A boolean."""
        found = self._find(key, default, "a boolean", frozenset((ValueType.BOOL,)))
        return default if found is None else bool(found)

    def get_str(self, key: str, default: _Default = _REQUIRED) -> str | _Default:
        """A string."""
        found = self._find(key, default, "a string", frozenset((ValueType.STRING,)))
        return default if found is None else str(found)

    def get_array(self, key: str, default: _Default = _REQUIRED) -> npt.NDArray[Any] | _Default:
        """An array of numbers or booleans, of the file's own NumPy type, one-dimensional, read-only."""
        found = self._find(key, default, "an array of numbers", frozenset((ValueType.ARRAY,)), frozenset(NUMPY_TYPES))
        return default if found is None else np.asarray(found)

    def get_strings(self, key: str, default: _Default = _REQUIRED) -> Sequence[str] | _Default:
        """An array of strings, decoded when first used (GGUFError then, if one is not UTF-8)."""
        strings = frozenset((ValueType.STRING,))
        found = self._find(key, default, "an array of strings", frozenset((ValueType.ARRAY,)), strings)
        return default if found is None else found

    def _find(
        self,
        key: str,
        default: Any,
        wanted: str,
        types: frozenset[ValueType],
        element_types: frozenset[ValueType] | None = None,
    ) -> Any:
        """The value of `key`, or None where the default is to be used."""
        entry = self._entries.get(key)
        if entry is None:
            if default is _REQUIRED:
                raise GGUFError(
                    f'{self._source} has no metadata "{key}" ({wanted}), which is needed: convert the model again '
                    "with a current converter"
                )
            return None
        if entry.type not in types or (element_types is not None and entry.element_type not in element_types):
            raise GGUFError(
                f'the metadata "{key}" of {self._source} must be {wanted}, but is {_describe(entry)}: convert the '
                "model again with a current converter"
            )
        return entry.value


def _describe(entry: TypedValue) -> str:
    if entry.element_type is not None:
        return f"an array of {entry.element_type.name.lower()}"
    return f"of type {entry.type.name.lower()}"
