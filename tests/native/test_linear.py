"""y = W x on bit planes against NumPy: the dequantised weights times the activations as the kernels quantise them."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from numpy.typing import NDArray

from ingle import _core as core

Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Bytes of a block, its columns, and where it holds half-precision scales.
BLOCKS: dict[Type, tuple[int, int, tuple[int, ...]]] = {
    Type.Q4_0: (18, 32, (0,)),
    Type.Q4_1: (20, 32, (0, 2)),
    Type.Q5_0: (22, 32, (0,)),
    Type.Q5_1: (24, 32, (0, 2)),
    Type.Q8_0: (34, 32, (0,)),
    Type.IQ4_NL: (18, 32, (0,)),
    Type.MXFP4: (17, 32, ()),
    Type.Q2_K: (84, 256, (80, 82)),
    Type.Q3_K: (110, 256, (108,)),
    Type.Q4_K: (144, 256, (0, 2)),
    Type.Q5_K: (176, 256, (0, 2)),
    Type.Q6_K: (210, 256, (208,)),
}
FLOATS = (Type.F32, Type.F16, Type.BF16)
TYPES = (*BLOCKS, *FLOATS)
ROWS = (1, 2, 3, 5, 8, 17, 33, 64)
ISAS = ("portable", "avx2", "avxvnni", "avx512", "amx", "neon")
QUICK = bool(os.environ.get("INGLE_ISA"))  # the tests below once more in one instruction set: fewer shapes
TILES = core.isa() == "amx"  # there, many rows are multiplied in bf16 instead of int8
TILES_FROM = 9  # no tiles below this number of rows, on any machine


def random_matrix(kind: Type, n: int, k: int, seed: int = 0) -> Bytes:
    """Random bytes as codes and sub-scales; scales random, of both signs and finite."""
    rng = np.random.default_rng([seed, int(kind), n, k])
    if kind in FLOATS:
        values = (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)
        if kind == Type.F16:
            return values.astype(np.float16).view(np.uint8).reshape(-1)
        if kind == Type.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1)
        return values.view(np.uint8).reshape(-1)
    size, columns, scales = BLOCKS[kind]
    blocks = rng.integers(0, 256, (n * k // columns, size), dtype=np.uint8)
    for at in scales:
        d = rng.standard_normal((len(blocks), 1)) * 10.0 ** rng.integers(-4, 0, (len(blocks), 1))
        blocks[:, at : at + 2] = d.astype(np.float16).view(np.uint8)
    if kind == Type.MXFP4:
        blocks[:, 0] = rng.integers(110, 135, len(blocks))
    return blocks.reshape(-1)


def dequantised(kind: Type, n: int, k: int, data: Bytes) -> Float:
    if kind == Type.F32:
        return data.view(np.float32).reshape(n, k)
    if kind == Type.F16:
        return data.view(np.float16).astype(np.float32).reshape(n, k)
    return dequantize(data.reshape(n, -1), kind).reshape(n, k)


def activations(m: int, k: int, seed: int = 1) -> Float:
    """Rows of very different sizes, with outliers and a group of zeros."""
    rng = np.random.default_rng([seed, m, k])
    x = rng.standard_normal((m, k)) * 10.0 ** rng.uniform(-3, 3, (m, 1))
    x[rng.random((m, k)) < 0.01] *= 50
    x[:, :32] *= rng.random((m, 1)) < 0.9
    return x.astype(np.float32)


def int8_groups(x: Float) -> NDArray[np.float64]:
    """What the kernels make of activations: int8 in groups of 32, scale = largest / 127, rounded to nearest even."""
    groups = x.reshape(len(x), -1, 32)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(largest >= np.float32(1e-30), np.float32(127) / largest, np.float32(0))
    codes = np.rint(groups * inverse).astype(np.float64)
    return (codes * (largest / np.float32(127)).astype(np.float64)).reshape(x.shape)


def assert_product(y: Float, w: Float, x: Float, kind: Type, m: int) -> None:
    """y is W x up to the rounding of float sums, or of bf16 products where matrix tiles are used."""
    w64 = w.astype(np.float64)
    if TILES and m >= TILES_FROM and kind not in FLOATS and not close(y, int8_groups(x), w64, 1e-5):
        x64 = x.astype(np.float64)
        # Both factors are rounded to 8 bits: errors of 2^-9 in each product, independent, so the sum's is theirs in
        # quadrature; four standard deviations, and the largest for sums of few terms.
        bound = 2.0**-8 * 4 * np.sqrt((x64**2) @ (w64**2).T) + 1e-30
        assert np.all(np.abs(y - x64 @ w64.T) <= bound)
        return
    x64 = x.astype(np.float64) if kind in FLOATS else int8_groups(x)
    split = TILES and m >= TILES_FROM and kind in {Type.F16, Type.BF16}  # the sum of two roundings: 2^-16
    assert close(y, x64, w64, 3e-5 if split else 1e-6 if kind in FLOATS else 1e-5)


def close(y: Float, x: NDArray[np.float64], w: NDArray[np.float64], tolerance: float) -> bool:
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)[None, :]
    return bool(np.all(np.abs(y - x @ w.T) <= tolerance * norms + 1e-30))


def columns_of(kind: Type) -> tuple[int, ...]:
    if kind in FLOATS:
        return (1, 7, 200) if QUICK else (1, 7, 32, 200, 512, 1536)
    widths = (32, 288, 512, 768) if QUICK else (32, 64, 256, 288, 512, 768, 1536)
    return tuple(k for k in widths if k % BLOCKS[kind][1] == 0)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_product(kind: Type) -> None:
    for k in columns_of(kind):
        x = activations(max(ROWS), k)
        for n in (17, 100) if QUICK else (1, 15, 16, 17, 40, 100):
            data = random_matrix(kind, n, k)
            w = dequantised(kind, n, k, data)
            for m in ROWS:
                y = core.linear_once(int(kind), n, k, data, x[:m])
                assert y.shape == (m, n)
                assert_product(y, w, x[:m], kind, m)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_rows_are_the_dequantised_ones_bit_for_bit(kind: Type) -> None:
    for k in columns_of(kind):
        data = random_matrix(kind, 19, k)
        np.testing.assert_array_equal(core.matrix_rows(int(kind), 19, k, data), dequantised(kind, 19, k, data))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_threads_change_nothing(kind: Type) -> None:
    n, k = 203, 512
    data = random_matrix(kind, n, k)
    for m in (1, 2, 7, 40):
        x = activations(m, k)
        alone = core.linear_once(int(kind), n, k, data, x, 1)
        for threads in (2, 3, 5, 31):
            np.testing.assert_array_equal(core.linear_once(int(kind), n, k, data, x, threads), alone)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_K, Type.F32], ids=lambda kind: kind.name)
def test_accumulate_adds_to_what_is_there(kind: Type) -> None:
    n, k = 53, 1280
    data = random_matrix(kind, n, k)
    for m in (1, 2, 6, 50):
        x = activations(m, k)
        start = activations(m, 64, seed=2)[:, :n].copy()
        plain = core.linear_once(int(kind), n, k, data, x, 2)
        added = core.linear_once(int(kind), n, k, data, x, 2, start)
        # Tiles add to the start while they sum; elsewhere it is added at the end.
        norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(dequantised(kind, n, k, data), axis=1)
        assert np.all(np.abs(added - (start + plain)) <= 1e-6 * (np.abs(start) + np.abs(plain) + norms))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(kind: Type, bad: float) -> None:
    n, k = 40, 256
    data = random_matrix(kind, n, k)
    for m in (1, 4, 40):
        x = activations(m, k)
        clean = core.linear_once(int(kind), n, k, data, x)
        x[m // 2, 77] = bad
        y = core.linear_once(int(kind), n, k, data, x)
        weights = dequantised(kind, n, k, data)[:, 77]
        assert not np.isfinite(y[m // 2, weights != 0]).any()
        others = np.arange(m) != m // 2
        np.testing.assert_array_equal(y[others], clean[others])


def test_tiny_and_huge_activations() -> None:
    data = random_matrix(Type.Q8_0, 16, 64)
    w = dequantised(Type.Q8_0, 16, 64, data).astype(np.float64)
    for size in (1e-45, 1e-38, 1e-25, 1e25):
        x = (activations(1, 64) * size).astype(np.float32) if size > 1e-40 else np.full((1, 64), size, np.float32)
        y = core.linear_once(int(Type.Q8_0), 16, 64, data, x)
        assert np.isfinite(y).all()
        assert close(y, int8_groups(x) if size > 1e-30 else x.astype(np.float64), w, 1e-5 if size > 1e-30 else 1.0)


def test_wrong_input_is_an_error() -> None:
    x = np.zeros((1, 64), np.float32)
    data = np.zeros(36 * 4, np.uint8)
    with pytest.raises(ValueError, match="GGML type 4"):
        core.linear_once(4, 4, 64, data, x)
    with pytest.raises(ValueError, match="multiple of 32"):
        core.linear_once(2, 4, 48, data, x)
    with pytest.raises(ValueError, match="144 bytes"):
        core.linear_once(2, 4, 64, data[:-1], x)
    with pytest.raises(ValueError, match="sensible size"):
        core.matrix_rows(2, -1, 64, data)
    with pytest.raises(ValueError, match="sensible size"):
        core.matrix_rows(2, 1 << 60, 64, data)


def run_with_isa(isa: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "INGLE_ISA": isa}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def test_unknown_isa_is_an_error() -> None:
    done = run_with_isa("sse9", "-c", "import ingle._core as core; core.isa()")
    assert done.returncode != 0
    assert "ValueError" in done.stderr
    assert "sse9" in done.stderr


@lru_cache
def isa_when_asked(isa: str) -> str:
    done = run_with_isa(isa, "-c", "import ingle._core as core; print(core.isa())")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(bool(os.environ.get("INGLE_ISA")), reason="one instruction set was asked for")
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa: str) -> None:
    """The tests above once more in a process that is held to `isa`."""
    if isa_when_asked(isa) != isa:
        pytest.skip(f"needs a processor with {isa}")
    if isa == core.isa():
        pytest.skip(f"the tests of this process have run {isa} already")
    done = run_with_isa(isa, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__)
    assert done.returncode == 0, done.stdout + done.stderr
