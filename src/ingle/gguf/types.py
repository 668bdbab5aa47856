"""The GGML tensor types: one table of what each is called and how many bytes a block of it takes.

A tensor type stores `weights_per_block` consecutive weights of a row in `bytes_per_block` bytes. For the plain
floating-point types a block is one weight. Ids and sizes follow the GGUF specification
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and the block structures of ggml.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import prod

from ingle.errors import UsageError

__all__ = ["UNSUPPORTED_TYPES", "TensorType"]

#: Tensor types that exist, or existed, in GGUF files and that Ingle does not read, by id: errors can name them.
UNSUPPORTED_TYPES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    40: "NVFP4",
    41: "Q1_0",
}


class TensorType(Enum):
    """How the weights of a tensor are stored. The value is the id in the file."""

    weights_per_block: int
    bytes_per_block: int

    # name  = (id, weights per block, bytes per block); the sum shows the block's parts
    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 2 + 16)  # scale, 4-bit
    Q4_1 = (3, 32, 2 + 2 + 16)  # scale, minimum, 4-bit
    Q5_0 = (6, 32, 2 + 4 + 16)  # scale, fifth bits, 4-bit
    Q5_1 = (7, 32, 2 + 2 + 4 + 16)  # scale, minimum, fifth bits, 4-bit
    Q8_0 = (8, 32, 2 + 32)  # scale, int8
    Q2_K = (10, 256, 16 + 64 + 2 + 2)  # group scales and minimums, 2-bit, their two super-scales
    Q3_K = (11, 256, 32 + 64 + 12 + 2)  # third bits, 2-bit, group scales, super-scale
    Q4_K = (12, 256, 2 + 2 + 12 + 128)  # two super-scales, group scales and minimums, 4-bit
    Q5_K = (13, 256, 2 + 2 + 12 + 32 + 128)  # as Q4_K, and the fifth bits before the 4-bit part
    Q6_K = (14, 256, 128 + 64 + 16 + 2)  # 4-bit, upper two bits, group scales, super-scale
    IQ4_NL = (20, 32, 2 + 16)  # scale, 4-bit indices into a table
    BF16 = (30, 1, 2)
    MXFP4 = (39, 32, 1 + 16)  # power-of-two scale, 4-bit floats (OCP Microscaling 1.0)

    def __new__(cls, type_id: int, weights_per_block: int, bytes_per_block: int) -> TensorType:
        member = object.__new__(cls)
        member._value_ = type_id
        member.weights_per_block = weights_per_block
        member.bytes_per_block = bytes_per_block
        return member

    @property
    def id(self) -> int:
        """The number that stands for this type in a GGUF file."""
        return int(self.value)

    @property
    def is_quantized(self) -> bool:
        """Whether several weights share a block; false for F32, F16 and BF16."""
        return self.weights_per_block > 1

    @property
    def bits_per_weight(self) -> float:
        """Bits of file per weight, scales included."""
        return self.bytes_per_block * 8 / self.weights_per_block

    def row_bytes(self, n_weights: int) -> int:
        """Bytes of a row of `n_weights` weights; UsageError when they do not fill whole blocks."""
        if n_weights % self.weights_per_block:
            raise UsageError(
                f"a row of {n_weights} weights cannot be {self.name}, which stores {self.weights_per_block} weights "
                "per block: choose a type whose block divides the row"
            )
        return n_weights // self.weights_per_block * self.bytes_per_block

    def n_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of this type with `shape` (rows first, weights of a row last)."""
        return prod(shape[:-1]) * self.row_bytes(shape[-1]) if shape else self.row_bytes(1)

    @classmethod
    def from_id(cls, type_id: int) -> TensorType | None:
        """The type with this id, or None when Ingle does not have it (see UNSUPPORTED_TYPES)."""
        return next((member for member in cls if member.value == type_id), None)

    @classmethod
    def parse(cls, name: str) -> TensorType:
        """The type called `name`, in either case, such as "q4_0"."""
        try:
            return cls[name.strip().upper()]
        except KeyError:
            known = ", ".join(member.name.lower() for member in cls)
            raise UsageError(f'there is no tensor type called "{name}": choose one of {known}') from None
