"""From the bytes of a tensor back to float32: the definition that the native kernels are tested against.

Each function below takes the blocks of one type, uint8[n_blocks, bytes_per_block], and returns their weights,
float32[n_blocks, weights_per_block], with the operations in the order of ggml's own reference, so that results agree
with the `gguf` package bit for bit. A comment gives each block's parts in their order.

In the K-quants a *group* is 16 or 32 weights with a scale of few bits (and a minimum), of which the block has the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ingle.errors import UsageError
from ingle.gguf.types import TensorType

__all__ = ["IQ4_NL_VALUES", "MXFP4_VALUES", "dequantize", "has_nonfinite_scales"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

#: The weight that each 4-bit index of IQ4_NL stands for, before the scale: finer near zero, where weights are.
IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32)
#: Twice the value of each 4-bit float E2M1 (OCP Microscaling Formats 1.0); the scale below is half to match.
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)

_STEP_BYTES = 4 << 20  # of input at a time, so that the temporaries stay small beside the result


def dequantize(data: npt.NDArray[np.uint8], type: TensorType, shape: Sequence[int]) -> Floats:
    """The weights that `data` holds: a new float32 array of `shape` (rows first).

    `data` is uint8 of any shape with exactly the bytes of such a tensor; UsageError when it has another number.
    Non-finite scales give non-finite weights without a warning (see `has_nonfinite_scales`).
    """
    n_bytes = type.n_bytes(shape)
    if data.dtype != np.uint8 or data.size != n_bytes:
        raise UsageError(
            f"a {type.name} tensor of shape {list(shape)} is {n_bytes} bytes of uint8, not {data.size} of "
            f"{data.dtype}: give the data and the shape of one tensor"
        )
    blocks = data.reshape(-1, type.bytes_per_block)
    weights = np.empty((len(blocks), type.weights_per_block), np.float32)
    step = max(1, _STEP_BYTES // type.bytes_per_block)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(blocks), step):
            chunk = np.ascontiguousarray(blocks[start : start + step])
            weights[start : start + step] = _DEQUANTIZE[type](chunk)
    return weights.reshape(tuple(shape))


def has_nonfinite_scales(data: npt.NDArray[np.uint8], type: TensorType) -> bool:
    """Whether any scale (or minimum) in `data` is infinite or not a number; for the plain float types, any weight.

    Such a block poisons every product it enters, so a loader refuses the file. Reads the scales alone.
    """
    size, dtype, exponent = _FLOAT_BITS[type]
    for offset in _SCALE_OFFSETS.get(type, (0,)):
        blocks = data.reshape(-1, type.bytes_per_block)
        step = max(1, _STEP_BYTES // type.bytes_per_block)
        for start in range(0, len(blocks), step):
            field = np.ascontiguousarray(blocks[start : start + step, offset : offset + size])
            if ((field.view(dtype) & exponent) == exponent).any():
                return True
    return False


# -- parts that several types share -----------------------------------------------------------------------------------


def _half(blocks: Bytes, offset: int) -> Floats:
    """The float16 at byte `offset` of each block: float32[n_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2").astype(np.float32)


def _fields(values: Bytes, bits: int) -> Bytes:
    """Split bytes [..., m] into 8 / bits fields, lowest first: uint8[..., 8 / bits, m]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (values[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)


def _nibbles(values: Bytes) -> Bytes:
    """All lower halves of bytes [n_blocks, m], then all upper halves: uint8[n_blocks, 2 m]."""
    return _fields(values, 4).reshape(len(values), -1)


def _fifth_bits(values: Bytes) -> Bytes:
    """32 bits as 4 bytes per block, lowest first, each in the place of a fifth bit: uint8[n_blocks, 32]."""
    return np.unpackbits(values, axis=1, bitorder="little") << np.uint8(4)


def _signed(values: Bytes, zero: int) -> Floats:
    """Unsigned integers less the one that stands for zero, as float32."""
    return (values.astype(np.int8) - np.int8(zero)).astype(np.float32)


def _six_bit_scales_and_minimums(packed: Bytes) -> tuple[Floats, Floats]:
    """The 8 scales and 8 minimums, 6 bits each, in the 12 bytes that Q4_K and Q5_K have: float32[n_blocks, 8] each.

    Bytes 0-3 hold scales 0-3 and bytes 4-7 minimums 0-3 in their lower six bits. Bytes 8-11 hold the lower four bits of
    scales and minimums 4-7, whose upper two bits are the upper two of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 2) & 0x30)], axis=1)
    minimums = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 2) & 0x30)], axis=1)
    return scales.astype(np.float32), minimums.astype(np.float32)


# -- one function per type --------------------------------------------------------------------------------------------


def _f32(blocks: Bytes) -> Floats:
    return blocks.view("<f4")


def _f16(blocks: Bytes) -> Floats:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:  # scale 2, nibbles 16
    return _half(blocks, 0) * _signed(_nibbles(blocks[:, 2:]), 8)


def _q4_1(blocks: Bytes) -> Floats:  # scale 2, minimum 2, nibbles 16
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:  # scale 2, fifth bits 4, nibbles 16
    return _half(blocks, 0) * _signed(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), 16)


def _q5_1(blocks: Bytes) -> Floats:  # scale 2, minimum 2, fifth bits 4, nibbles 16
    quants = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * quants.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:  # scale 2, int8 32
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks, 0)


def _q2_k(blocks: Bytes) -> Floats:  # scale | minimum nibbles 16, 2-bit 64, super-scale 2, super-minimum 2
    scales = _half(blocks, 80) * (blocks[:, :16] & 0x0F).astype(np.float32)
    minimums = _half(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32)
    quants = _fields(blocks[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16).astype(np.float32)
    return (scales[:, :, None] * quants - minimums[:, :, None]).reshape(-1, 256)


def _q3_k(blocks: Bytes) -> Floats:  # third bits 32, 2-bit 64, scales 12, super-scale 2
    # 16 scales of 6 bits: lower four in bytes 0-7, upper two in bytes 8-11; 32 stands for zero
    lower = _nibbles(blocks[:, 96:104])
    upper = _fields(blocks[:, 104:108], 2).reshape(-1, 16)
    scales = _half(blocks, 108) * _signed(lower | (upper << np.uint8(4)), 32)
    # a clear third bit means 4 less
    third = _fields(blocks[:, :32], 1).reshape(-1, 256)
    quants = _fields(blocks[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 256)
    signed = _signed(quants | (third << np.uint8(2)), 4).reshape(-1, 16, 16)
    return (scales[:, :, None] * signed).reshape(-1, 256)


def _q4_k(blocks: Bytes) -> Floats:  # super-scale 2, super-minimum 2, scales and minimums 12, nibbles 128
    quants = _fields(blocks[:, 16:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return _scaled_with_minimums(blocks, quants)


def _q5_k(blocks: Bytes) -> Floats:  # as Q4_K with fifth bits 32 before the nibbles
    fifth = _fields(blocks[:, 16:48], 1)
    quants = _fields(blocks[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return _scaled_with_minimums(blocks, quants | (fifth << np.uint8(4)))


def _scaled_with_minimums(blocks: Bytes, quants: Bytes) -> Floats:
    """The end of Q4_K and Q5_K: quants uint8[n_blocks, 8 groups, 32]."""
    scales, minimums = _six_bit_scales_and_minimums(blocks[:, 4:16])
    scales *= _half(blocks, 0)
    minimums *= _half(blocks, 2)
    return (scales[:, :, None] * quants.astype(np.float32) - minimums[:, :, None]).reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Floats:  # nibbles 128, upper two bits 64, int8 scales 16, super-scale 2
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    lower = _fields(blocks[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 256)
    upper = _fields(blocks[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 256)
    signed = _signed(lower | (upper << np.uint8(4)), 32).reshape(-1, 16, 16)
    return (scales[:, :, None] * signed).reshape(-1, 256)


def _iq4_nl(blocks: Bytes) -> Floats:  # scale 2, nibbles 16
    return _half(blocks, 0) * IQ4_NL_VALUES[_nibbles(blocks[:, 2:])]


def _mxfp4(blocks: Bytes) -> Floats:  # exponent 1, nibbles 16
    exponent = blocks[:, :1].astype(np.uint32)
    # half of 2^(exponent - 127), as float32 bits; the two smallest are subnormal
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - np.uint32(1)) << np.uint32(23))
    return bits.view(np.float32) * MXFP4_VALUES[_nibbles(blocks[:, 1:])]


_DEQUANTIZE: dict[TensorType, Callable[[Bytes], Floats]] = {
    TensorType.F32: _f32,
    TensorType.F16: _f16,
    TensorType.BF16: _bf16,
    TensorType.Q4_0: _q4_0,
    TensorType.Q4_1: _q4_1,
    TensorType.Q5_0: _q5_0,
    TensorType.Q5_1: _q5_1,
    TensorType.Q8_0: _q8_0,
    TensorType.Q2_K: _q2_k,
    TensorType.Q3_K: _q3_k,
    TensorType.Q4_K: _q4_k,
    TensorType.Q5_K: _q5_k,
    TensorType.Q6_K: _q6_k,
    TensorType.IQ4_NL: _iq4_nl,
    TensorType.MXFP4: _mxfp4,
}

_HALF = (2, np.dtype("<u2"), 0x7C00)

#: Bytes, integer type and exponent bits of each type's scales. A float is not finite when all exponent bits are set.
_FLOAT_BITS: dict[TensorType, tuple[int, np.dtype[Any], int]] = dict.fromkeys(TensorType, _HALF) | {
    TensorType.F32: (4, np.dtype("<u4"), 0x7F800000),
    TensorType.BF16: (2, np.dtype("<u2"), 0x7F80),
    TensorType.MXFP4: (1, np.dtype("u1"), 0xFF),
}

#: Where in a block the float16 scales are, for the types where that is not at its start alone.
_SCALE_OFFSETS: dict[TensorType, tuple[int, ...]] = {
    TensorType.Q4_1: (0, 2),
    TensorType.Q5_1: (0, 2),
    TensorType.Q2_K: (80, 82),
    TensorType.Q3_K: (108,),
    TensorType.Q4_K: (0, 2),
    TensorType.Q5_K: (0, 2),
    TensorType.Q6_K: (208,),
}
