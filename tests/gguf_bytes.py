"""GGUF files made by hand, byte for byte, so that tests can also make unsound ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0 = 0, 1, 2


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def pair(key: str | bytes, value_type: int, payload: bytes) -> bytes:
    return string(key) + u32(value_type) + payload


def array(element_type: int, count: int, payload: bytes) -> bytes:
    return u32(element_type) + u64(count) + payload


def strings(texts: Sequence[str | bytes]) -> bytes:
    return array(STRING, len(texts), b"".join(map(string, texts)))


@dataclass
class Tensor:
    """A tensor record; `dims` in the file's order (weights of a row first)."""

    name: str | bytes = "t"
    dims: Sequence[int] = (8,)
    type: int = F32
    offset: int = 0
    n_dims: int | None = None

    def record(self) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        return string(self.name) + u32(n_dims) + b"".join(map(u64, self.dims)) + u32(self.type) + u64(self.offset)


def file(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file: header, padding, data. Counts are the true ones unless given."""
    header = magic + u32(version)
    header += u64(len(tensors) if n_tensors is None else n_tensors)
    header += u64(len(pairs) if n_pairs is None else n_pairs)
    header += b"".join(pairs) + b"".join(tensor.record() for tensor in tensors)
    return header + bytes(-len(header) % alignment) + data if tensors else header


def sound() -> bytes:
    """A small sound file with every kind of value and two tensors, ending with the last byte of the last tensor."""
    pairs = [
        pair("general.architecture", STRING, string("llama")),
        pair("a.uint8", UINT8, b"\xff"),
        pair("a.int8", INT8, b"\xff"),
        pair("a.uint16", UINT16, b"\xff\xff"),
        pair("a.int16", INT16, b"\xfe\xff"),
        pair("a.uint32", UINT32, u32(7)),
        pair("a.int32", INT32, struct.pack("<i", -7)),
        pair("a.float32", FLOAT32, struct.pack("<f", 0.1)),
        pair("a.bool", BOOL, b"\x01"),
        pair("a.uint64", UINT64, u64(2**63)),
        pair("a.int64", INT64, struct.pack("<q", -(2**63))),
        pair("a.float64", FLOAT64, struct.pack("<d", 0.1)),
        pair("strings", ARRAY, strings(["a", "", "häuser", "日本"])),
        pair("no.strings", ARRAY, strings([])),
        pair("numbers", ARRAY, array(INT32, 3, struct.pack("<3i", 1, -2, 3))),
        pair("no.numbers", ARRAY, array(FLOAT32, 0, b"")),
        pair("flags", ARRAY, array(BOOL, 3, b"\x00\x01\x01")),
        pair("nested", ARRAY, array(ARRAY, 2, array(UINT8, 2, b"\x01\x02") + strings(["x"]))),
    ]
    tensors = [Tensor("matrix", (4, 3), F32, 0), Tensor("blocks", (32, 2), Q4_0, 64)]
    return file(pairs, tensors, bytes(range(48)) + bytes(16) + bytes(range(36)))
