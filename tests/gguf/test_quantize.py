"""Quantisation: simple types against the gguf package bit for bit, K-quants against the error the field reaches."""

from __future__ import annotations

import sys
from typing import Any

import gguf.quants
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType

from ingle.errors import BackendError, UnsupportedError, UsageError
from ingle.gguf import QUANTIZABLE_TYPES, TensorType, dequantize, quantize

T = TensorType
SIMPLE = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]

#: Largest root mean square error on Gaussian weights, relative to theirs. llama.cpp's own quantisers (ggml 0.25,
#: without an importance matrix) give 0.297, 0.151, 0.0714, 0.0361, 0.0178 and 0.0761 on the same weights.
LARGEST_ERROR = {T.Q2_K: 0.275, T.Q3_K: 0.148, T.Q4_K: 0.0714, T.Q5_K: 0.0355, T.Q6_K: 0.0176, T.IQ4_NL: 0.0745}
NATIVE = list(LARGEST_ERROR)


@pytest.fixture
def core() -> Any:
    from ingle import _core

    return _core


def gaussian(n: int, k: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((n, k)) * 0.02).astype(np.float32)


def relative_error(x: npt.NDArray[np.float32], type: TensorType, data: npt.NDArray[np.uint8]) -> float:
    return float(np.sqrt(np.mean((dequantize(data, type, x.shape) - x) ** 2) / np.mean(x**2)))


@pytest.mark.parametrize("type", SIMPLE)
def test_simple_types_equal_the_gguf_package(type: TensorType) -> None:
    x = gaussian(37, 96)
    x[3] = 0
    x[4, :32] = 1e-30
    x[5] = np.round(x[5], 2)  # ties
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(x, GGMLQuantizationType(type.id)).view(np.uint8)
    data = quantize(x, type)
    assert data.dtype == np.uint8
    assert data.shape == (37, type.row_bytes(96))
    np.testing.assert_array_equal(data, expected)


def test_quantising_leaves_the_input_alone() -> None:
    x = gaussian(2, 64)
    x.setflags(write=False)
    for type in SIMPLE:
        data = quantize(x, type)
        assert not np.shares_memory(data, x)


@pytest.mark.parametrize("type", NATIVE)
def test_error_is_what_the_field_reaches(core: Any, type: TensorType) -> None:
    x = gaussian(64, 1024)
    assert relative_error(x, type, quantize(x, type)) < LARGEST_ERROR[type]


@pytest.mark.parametrize("type", NATIVE)
def test_error_with_a_few_large_weights(core: Any, type: TensorType) -> None:
    """Heavy tails: twice the error of the Gaussian is fair, more would be a scale search that breaks."""
    x = (np.random.default_rng(1).standard_t(4, (64, 1024)) * 0.02).astype(np.float32)
    assert relative_error(x, type, quantize(x, type)) < 2 * LARGEST_ERROR[type]


@pytest.mark.parametrize("type", NATIVE)
def test_more_bits_are_never_worse(core: Any, type: TensorType) -> None:
    x = gaussian(16, 1024, seed=2)
    errors = {t: relative_error(x, t, quantize(x, t)) for t in NATIVE}
    for other in NATIVE:
        if other.bits_per_weight > type.bits_per_weight + 0.1:
            assert errors[other] < errors[type]


@pytest.mark.parametrize("type", NATIVE)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2])
def test_weights_on_a_grid_come_back(core: Any, type: TensorType, scale: float) -> None:
    """Integers that every group can hold exactly, all levels used, leave only the rounding of the float16 unit."""
    levels = {T.Q2_K: 4, T.Q3_K: 8, T.Q4_K: 16, T.Q5_K: 32, T.Q6_K: 64, T.IQ4_NL: 0}[type]
    if type is T.IQ4_NL:
        grid = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    else:
        grid = np.arange(levels) - levels // 2
    x = np.resize(grid, (4, 256)).astype(np.float32)
    if type is T.Q6_K:  # 64 levels do not fit a group of 16; its extreme has to be in it
        x[:, ::16] = -32
    x = (x * scale).astype(np.float32)
    assert relative_error(x, type, quantize(x, type)) < 2e-3


@pytest.mark.parametrize("type", NATIVE)
def test_plain_cases(core: Any, type: TensorType) -> None:
    zeros = np.zeros((2, 512), np.float32)
    assert not dequantize(quantize(zeros, type), type, zeros.shape).any()
    for constant in (0.25, -0.25):
        x = np.full((2, 512), constant, np.float32)
        np.testing.assert_allclose(dequantize(quantize(x, type), type, x.shape), x, rtol=2e-3)
    spike = np.zeros((1, 256), np.float32)
    spike[0, 77] = -3.0
    back = dequantize(quantize(spike, type), type, spike.shape)
    assert back[0, 77] == pytest.approx(-3.0, rel=2e-3)
    assert np.abs(np.delete(back, 77)).max() < 0.05
    tiny = np.full((1, 256), 1e-30, np.float32)
    assert np.abs(dequantize(quantize(tiny, type), type, tiny.shape)).max() < 1e-6
    assert quantize(np.zeros((0, 256), np.float32), type).shape == (0, type.row_bytes(256))


@pytest.mark.parametrize("type", NATIVE)
def test_rows_are_independent(core: Any, type: TensorType) -> None:
    """Slabs, threads and strides change nothing."""
    x = gaussian(33, 512)
    whole = quantize(x, type)
    np.testing.assert_array_equal(whole, np.concatenate([quantize(x[:5], type), quantize(x[5:], type)]))
    np.testing.assert_array_equal(whole, quantize(x, type, threads=1))
    np.testing.assert_array_equal(whole, quantize(x, type, threads=7))
    np.testing.assert_array_equal(whole[::2], quantize(x[::2], type))


# -- what cannot be quantised ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", sorted(QUANTIZABLE_TYPES, key=lambda t: t.id))
def test_nonfinite_weights_are_refused(type: TensorType, bad: float) -> None:
    x = gaussian(2, 256)
    x[1, 200] = bad
    with pytest.raises(UsageError, match="infinite values or NaN"):
        quantize(x, type)


@pytest.mark.parametrize("type", [t for t in QUANTIZABLE_TYPES if t not in (T.F32, T.BF16)])
def test_weights_out_of_range_are_refused(type: TensorType) -> None:
    x = gaussian(2, 256)
    x[0, 0] = -1e5
    with pytest.raises(UsageError, match=r"largest weight is 100000, .* reaches 65504"):
        quantize(x, type)


def test_weights_that_would_round_to_infinity_are_refused() -> None:
    x = np.full((1, 32), np.finfo(np.float32).max)
    with pytest.raises(UsageError, match=r"BF16 reaches 3\.38953e\+38"):
        quantize(x, T.BF16)


def test_large_weights_fit_the_wide_types() -> None:
    x = np.full((1, 32), 1e30, np.float32)
    for type in (T.F32, T.BF16):
        np.testing.assert_allclose(dequantize(quantize(x, type), type, x.shape), x, rtol=1e-2)


@pytest.mark.parametrize("type", [t for t in QUANTIZABLE_TYPES if t.is_quantized])
def test_rows_must_be_whole_blocks(type: TensorType) -> None:
    with pytest.raises(UsageError, match="per block"):
        quantize(np.zeros((1, type.weights_per_block + 8), np.float32), type)


def test_what_is_not_rows_of_float32() -> None:
    with pytest.raises(UsageError, match="not float64 with 2"):
        quantize(np.zeros((1, 32)), T.Q8_0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not float32 with 1"):
        quantize(np.zeros(32, np.float32), T.Q8_0)


def test_a_type_that_is_only_read() -> None:
    with pytest.raises(UnsupportedError, match="reads MXFP4 but does not write it"):
        quantize(np.zeros((1, 32), np.float32), T.MXFP4)


def test_without_the_native_core(monkeypatch: pytest.MonkeyPatch) -> None:
    import ingle

    monkeypatch.delattr(ingle, "_core", raising=False)
    monkeypatch.setitem(sys.modules, "ingle._core", None)
    with pytest.raises(BackendError, match="needs the native core"):
        quantize(np.zeros((1, 256), np.float32), T.Q4_K)
