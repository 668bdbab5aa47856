"""Dequantisation against the gguf package, bit for bit, on random blocks."""

from __future__ import annotations

import gguf.quants
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType

from ingle.errors import UsageError
from ingle.gguf.dequantize import dequantize, has_nonfinite_scales
from ingle.gguf.types import UNSUPPORTED_TYPES, TensorType

# where each type keeps its float16 scales, written down again on purpose
SCALES: dict[TensorType, list[int]] = {
    TensorType.Q4_0: [0],
    TensorType.Q4_1: [0, 2],
    TensorType.Q5_0: [0],
    TensorType.Q5_1: [0, 2],
    TensorType.Q8_0: [0],
    TensorType.Q2_K: [80, 82],
    TensorType.Q3_K: [108],
    TensorType.Q4_K: [0, 2],
    TensorType.Q5_K: [0, 2],
    TensorType.Q6_K: [208],
    TensorType.IQ4_NL: [0],
}


def random_blocks(type: TensorType, n: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random bytes with finite float16 scales (any finite one, subnormal and negative included)."""
    rng = np.random.default_rng(seed)
    if type in (TensorType.F32, TensorType.F16):
        dtype = np.float32 if type is TensorType.F32 else np.float16
        return rng.standard_normal(n).astype(dtype).view(np.uint8)
    blocks = rng.integers(0, 256, (n, type.bytes_per_block), dtype=np.uint8)
    for offset in SCALES.get(type, []):
        blocks[:, offset + 1] &= np.where((blocks[:, offset + 1] & 0x7C) == 0x7C, 0xBF, 0xFF).astype(np.uint8)
    if type is TensorType.MXFP4:
        blocks[blocks[:, 0] == 0xFF, 0] = 0
    if type is TensorType.BF16:
        blocks[:, 1] &= 0xBF
    return blocks.reshape(-1)


@pytest.mark.parametrize("type", TensorType)
def test_types_agree_with_the_gguf_package(type: TensorType) -> None:
    theirs = GGMLQuantizationType(type.id)
    assert theirs.name == type.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (type.weights_per_block, type.bytes_per_block)
    assert TensorType.parse(f" {type.name.lower()} ") is type is TensorType.from_id(type.id)


def test_every_type_of_the_gguf_package_has_a_name_here() -> None:
    for theirs in GGMLQuantizationType:
        known = TensorType.from_id(theirs.value)
        assert (UNSUPPORTED_TYPES[theirs.value] if known is None else known.name) == theirs.name


def test_an_unknown_type_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r'"q9_z".*q4_k'):
        TensorType.parse("q9_z")


@pytest.mark.parametrize("type", TensorType)
@pytest.mark.parametrize("n_rows", [1, 3, 37])
def test_equals_the_gguf_package_bit_for_bit(type: TensorType, n_rows: int) -> None:
    per_row = 2 if type.is_quantized else 64
    data = random_blocks(type, n_rows * per_row, seed=n_rows)
    with np.errstate(over="ignore"):
        expected = gguf.quants.dequantize(data.reshape(n_rows, -1), GGMLQuantizationType(type.id))
    shape = (n_rows, per_row * type.weights_per_block)
    weights = dequantize(data, type, shape)
    assert weights.shape == shape == expected.shape
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights.view(np.uint32), expected.view(np.uint32))


def test_steps_join_without_a_seam() -> None:
    type = TensorType.Q3_K
    data = random_blocks(type, 50_000)  # more than one step
    weights = dequantize(data, type, (50_000, 256))
    for row in (0, 38_129, 38_130, 49_999):
        one = dequantize(data.reshape(50_000, -1)[row], type, (256,))
        np.testing.assert_array_equal(weights[row], one)


def test_the_result_is_ours_to_change() -> None:
    data = np.zeros(16, np.uint8)
    data.setflags(write=False)
    dequantize(data, TensorType.F32, (4,))[:] = 1
    assert not data.any()


@pytest.mark.parametrize("type", TensorType)
def test_wrong_number_of_bytes_is_refused(type: TensorType) -> None:
    data = np.zeros(2 * type.bytes_per_block + 1, np.uint8)
    with pytest.raises(UsageError, match=type.name):
        dequantize(data, type, (2, type.weights_per_block))
    with pytest.raises(UsageError, match="float32"):
        dequantize(data[:-1].astype(np.float32), type, (2, type.weights_per_block))


@pytest.mark.parametrize("type", [t for t in TensorType if t.is_quantized])
def test_a_row_must_fill_its_blocks(type: TensorType) -> None:
    with pytest.raises(UsageError, match="per block"):
        type.n_bytes((2, type.weights_per_block + 1))


@pytest.mark.parametrize("type", TensorType)
def test_nonfinite_scales_are_found_wherever_they_are(type: TensorType) -> None:
    data = random_blocks(type, 9)
    assert not has_nonfinite_scales(data, type)
    size = type.bytes_per_block
    if type is TensorType.MXFP4:
        bad = [(0, b"\xff")]
    elif type is TensorType.F32:
        bad = [(0, b"\x00\x00\x80\x7f"), (0, b"\x01\x00\x80\xff")]
    elif type is TensorType.BF16:
        bad = [(0, b"\x80\x7f"), (0, b"\xc0\xff")]
    else:
        bad = [(o, value) for o in SCALES.get(type, [0]) for value in (b"\x00\x7c", b"\x00\xfc", b"\x01\x7e")]
    for offset, value in bad:
        for block in (0, 4, 8):
            spoiled = data.copy()
            start = block * size + offset
            spoiled[start : start + len(value)] = np.frombuffer(value, np.uint8)
            assert has_nonfinite_scales(spoiled, type), (offset, value, block)
