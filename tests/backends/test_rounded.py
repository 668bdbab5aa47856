"""The model of rounding: int8 groups and bf16 by their definitions, and the reference where nothing is rounded."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from backends.decoders import SPECS, Loaded, error, random_decoder, random_tokens, spec_of
from ingle.backends.base import Rows
from ingle.backends.reference import ReferenceBackend
from ingle.backends.rounded import RoundedBackend, rounded_bf16, rounded_int8, rounding_of
from ingle.gguf import TensorType

PLAIN = SPECS["plain"]


def logits(backend: Any, spec: Any = PLAIN, kv_type: Any = "f32", n: int = 20, **decoder: Any) -> Any:
    model = Loaded(backend, random_decoder(spec, **decoder))
    return model.forward(Rows.of_slot(0, 0, random_tokens(spec, n)), model.cache(1, n, kv_type))


def test_int8_is_a_scale_times_whole_numbers() -> None:
    x = np.zeros((2, 64))
    x[0, :4] = 127, 0.5, 1.5, -2.5  # the scale is 1, and halves go to even
    x[1, 32:34] = -2, 1
    y = rounded_int8(x)
    assert y[0, :4].tolist() == [127, 0, 2, -2]
    assert y[1, 32] == pytest.approx(-2)
    assert y[1, 33] == pytest.approx(64 * 2 / 127)
    assert not y[:, 34:].any()
    assert not rounded_int8(np.full((1, 32), 1e-31)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_int8_errs_by_half_a_step(dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal((50, 96)).astype(dtype)
    wrong = np.abs(rounded_int8(x) - x).reshape(50, 3, 32)
    step = np.abs(x).reshape(50, 3, 32).max(axis=2, keepdims=True) / 127
    assert rounded_int8(x).dtype == dtype
    assert 0.49 < (wrong / step).max() < 0.5001


def test_bf16_is_the_nearest_with_8_bits() -> None:
    exact = [0.0, 1.0, -1.0078125, 3.140625, 2.0**-100]
    assert rounded_bf16(np.array(exact)).tolist() == exact
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)])  # between two: the even one
    assert rounded_bf16(halves).tolist() == [1.0, 1.015625, -1.0]
    x = np.random.default_rng(0).standard_normal(1000)
    assert 0.9 * 2**-8 < np.abs(rounded_bf16(x) / x - 1).max() <= 2**-8


def test_what_is_rounded() -> None:
    assert rounding_of(TensorType.Q4_K, tiles=False) == "int8"
    assert rounding_of(TensorType.Q4_K, tiles=True) == "bf16"
    assert rounding_of(TensorType.BF16, tiles=True) == "bf16 pairs"
    assert rounding_of(TensorType.F32, tiles=True) == rounding_of(TensorType.F16, tiles=False) == "none"


@pytest.mark.parametrize("name", ["plain", "layer norm", "not gated", "tied", "qk norm", "gemma 2", "alibi and cap"])
def test_floats_are_not_rounded(name: str) -> None:
    spec = SPECS[name]
    assert error(logits(RoundedBackend(spec), spec), logits(ReferenceBackend(spec), spec)) < 3e-6


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(head_dim=16, rope=None),
        spec_of(head_dim=16, rope=None, window=5),
        spec_of(head_dim=16, rope=None, alibi_slopes=(0.5, 0.3, 0.2, 0.1, 0.05, 0.01), attention_softcap=1.5),
    ],
    ids=["plain", "window", "alibi and cap"],
)
def test_attention_in_tiles_is_attention(spec: Any) -> None:
    """Over several pages; rounded to bf16, so nearly the same and not the same. One row has no tiles, nor has f32."""
    plain = partial(logits, ReferenceBackend(spec), spec)
    tiles = partial(logits, RoundedBackend(spec, tiles=True), spec)
    assert 1e-5 < error(tiles("f16", n=150), plain("f16", n=150)) < 2e-2
    assert error(tiles("f32", n=150), plain("f32", n=150)) < 3e-6
    assert error(tiles("f16", n=1), plain("f16", n=1)) < 3e-6


def test_few_rows_are_int8_and_many_bf16_in_tiles() -> None:
    spec = spec_of(n_ff=64, head_dim=32)
    make = partial(logits, spec=spec, type=TensorType.Q8_0)
    few, many = (make(RoundedBackend(spec, tiles=True), n=n) for n in (11, 12))
    assert error(few, make(RoundedBackend(spec), n=11)) == 0
    assert error(many, make(RoundedBackend(spec), n=12)) > 1e-4
    for got, n in ((few, 11), (many, 12)):
        assert 1e-4 < error(got, make(ReferenceBackend(spec), n=n)) < 5e-2


@pytest.mark.parametrize("type", [TensorType.F16, TensorType.BF16], ids=lambda type: type.name)
def test_floats_of_16_bits_lose_little_in_tiles(type: TensorType) -> None:
    spec = spec_of(n_ff=64, head_dim=32)
    make = partial(logits, spec=spec, type=type)
    assert 3e-6 < error(make(RoundedBackend(spec, tiles=True)), make(ReferenceBackend(spec))) < 2e-4
