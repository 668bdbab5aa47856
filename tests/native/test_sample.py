"""The native draw against its definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingle import _core as core
from ingle.engine.sampling import sample_numpy
from ingle.errors import BackendError

NOTHING = np.empty(0, np.int32)


def both(logits: NDArray[np.float32], history: NDArray[np.int32], *how: float) -> None:
    got, expected = core.sample(logits, history, *how), sample_numpy(logits, history, *how)
    assert got[0] == expected[0]
    assert got[1] == pytest.approx(expected[1], rel=1e-9, abs=1e-9)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    n=st.one_of(st.integers(1, 40), st.sampled_from([300, 1000, 5000])),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    steps=st.sampled_from([None, 2.0, 8.0]),
    never=st.booleans(),
    n_history=st.integers(0, 20),
    penalty=st.sampled_from([1.0, 1.3, 0.7, 1000.0]),
    top_k=st.sampled_from([0, 1, 2, 40, 400, 10**6]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 1e-9]),
    min_p=st.sampled_from([0.0, 0.05, 0.9, 1.0]),
    temperature=st.sampled_from([0.0, 1e-310, 0.2, 0.8, 1.0, 5.0]),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_draws_are_those_of_numpy(
    n: int,
    seed: int,
    spread: float,
    steps: float | None,
    never: bool,
    n_history: int,
    penalty: float,
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    uniform: float,
) -> None:
    """Also with many equal logits (`steps` rounds them), and with tokens that can never come (-infinity)."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(n) * spread).astype(np.float32)
    if steps is not None:
        logits = np.round(logits * np.float32(steps)) / np.float32(steps)
    if never:
        logits[rng.random(n) < 0.3] = -np.inf
        logits[rng.integers(n)] = 1.0
    history = rng.integers(0, n, n_history).astype(np.int32)
    both(logits, history, penalty, top_k, top_p, min_p, temperature, uniform)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("top_p", [1.0, 0.95])
@pytest.mark.parametrize("top_k", [0, 40])
def test_a_large_vocabulary(spread: float, top_p: float, top_k: int) -> None:
    """Flat ones too, whose cut-offs lie far down."""
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal(128256) * spread).astype(np.float32)
    for uniform in (0.0, 0.3, 0.99, 0.99999):
        both(logits, NOTHING, 1.0, top_k, top_p, 0.0, 0.9, uniform)
        both(logits, np.arange(0, 64, dtype=np.int32), 1.1, top_k, top_p, 0.05, 0.9, uniform)


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.asarray([0.5, 0.3, 0.15, 0.05], np.float32))
    drawn = [core.sample(logits, NOTHING, 1.0, 0, 1.0, 0.0, 1.0, u)[0] for u in (np.arange(1000) + 0.5) / 1000]
    assert np.bincount(drawn).tolist() == pytest.approx([500, 300, 150, 50], abs=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    logits = np.zeros(1000, np.float32)
    logits[:] = bad if bad == -np.inf else 0
    logits[7] = bad
    for top_k in (0, 40):
        with pytest.raises(BackendError, match="not finite"):
            core.sample(logits, NOTHING, 1.0, top_k, 0.95, 0.05, 0.8, 0.5)


@pytest.mark.parametrize(
    "how",
    [
        (0.0, 40, 0.95, 0.05, 0.8, 0.5),
        (1.0, -1, 0.95, 0.05, 0.8, 0.5),
        (1.0, 40, -0.1, 0.05, 0.8, 0.5),
        (1.0, 40, 0.95, -0.1, 0.8, 0.5),
        (1.0, 40, 0.95, 0.05, -0.8, 0.5),
        (1.0, 40, 0.95, 0.05, 0.8, 1.0),
        (float("nan"), 40, 0.95, 0.05, 0.8, 0.5),
    ],
)
def test_parameters_out_of_range(how: tuple[float, ...]) -> None:
    with pytest.raises(BackendError, match="range"):
        core.sample(np.zeros(10, np.float32), NOTHING, *how)


@pytest.mark.parametrize("token", [-1, 10])
def test_a_history_of_another_vocabulary(token: int) -> None:
    with pytest.raises(BackendError, match="history"):
        core.sample(np.zeros(10, np.float32), np.asarray([token], np.int32), 1.1, 0, 1.0, 0.0, 1.0, 0.5)


def test_arrays_of_another_type_are_refused() -> None:
    """Nothing is converted silently, and nothing beyond an array is read."""
    for logits in (np.zeros(10), np.zeros((2, 5), np.float32), np.zeros(20, np.float32)[::2]):
        with pytest.raises(TypeError):
            core.sample(logits, NOTHING, 1.0, 0, 1.0, 0.0, 1.0, 0.5)
    with pytest.raises(BackendError):
        core.sample(np.empty(0, np.float32), NOTHING, 1.0, 0, 1.0, 0.0, 1.0, 0.5)
