"""Penalties and biases of a draw, and the likeliest tokens beside it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from ingle.engine.model import load
from ingle.engine.sampling import (
    NOT_ALLOWED,
    NOT_FINITE,
    Sampler,
    SamplingParams,
    native_sample,
    sample_numpy,
    top_logprobs,
    with_penalties,
)
from ingle.errors import BackendError, UsageError

FUNCTIONS = [sample_numpy, native_sample()]


def logprobs_of(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_penalties_are_openais(function: object) -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, c counted over the answer and not its prompt."""
    rng = np.random.default_rng(0)
    params = SamplingParams(temperature=0, frequency_penalty=0.3, presence_penalty=0.7, logit_bias={3: 2.5, 4: -100})
    sampler = Sampler(params, function)  # type: ignore[arg-type]
    counts: Counter[int] = Counter()
    logits = rng.normal(0, 1, 40).astype(np.float32)
    for _ in range(60):
        c = np.array([counts[j] for j in range(40)])
        mu = logits - c * 0.3 - (c > 0) * 0.7
        mu[3] += 2.5
        mu[4] -= 100
        sample = sampler.sample(logits, [7, 7, 7])
        assert sample.token_id == int(mu.argmax())
        assert sample.logprob == pytest.approx(logprobs_of(logits)[sample.token_id], abs=1e-5)
        counts[sample.token_id] += 1
    assert len(counts) > 20
    assert counts[4] == 0


@pytest.mark.parametrize("function", FUNCTIONS)
@given(
    logits=st.lists(st.sampled_from([-np.inf, -1.0, 0.0, -0.0, 1.0, 1.5, 2.0]), min_size=2, max_size=8),
    bias=st.dictionaries(st.integers(0, 9), st.sampled_from([-100.0, -1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1),
)
def test_a_bias_alone_gives_the_likeliest_of_all(function: Any, logits: list[float], bias: dict[int, float]) -> None:
    """Few logits are looked at; ties are those of the lowest id, and the probability is the model's own."""
    logits[0] = max(logits[0], -5.0)  # some token must be possible
    raw = np.array(logits, np.float32)
    params = SamplingParams(temperature=0, logit_bias=bias)
    changed = with_penalties(raw, {}, params)
    sample = Sampler(params, function).sample(raw)
    assert sample.token_id == int(changed.argmax())
    assert sample.logprob == pytest.approx(logprobs_of(raw)[sample.token_id], abs=1e-5)
    np.testing.assert_array_equal(raw, np.array(logits, np.float32))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bias_hides_nothing_that_is_broken(function: Any) -> None:
    sampler = Sampler(SamplingParams(temperature=0, logit_bias={1: 1.0}), function)
    with pytest.raises(BackendError, match="finite"):
        sampler.sample(np.array([1.0, 2.0, np.nan], np.float32))


def test_the_logits_given_stay_as_they_are() -> None:
    logits = np.array([1.0, 2.0], np.float32)
    params = SamplingParams(temperature=0, logit_bias={1: -5.0, 9: 1.0})
    np.testing.assert_array_equal(with_penalties(logits, {0: 2}, params), [1.0, -3.0])
    np.testing.assert_array_equal(logits, [1.0, 2.0])


def test_a_bias_and_a_grammar() -> None:
    logits = np.array([5.0, 2.0, 1.0, 0.0], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, logit_bias={2: 50.0, 3: 100.0}, presence_penalty=2.0))
    assert sampler.sample(logits, [], np.array([True, True, True, False])).token_id == 2


def test_a_forced_token_takes_a_step_and_counts() -> None:
    rng = np.random.default_rng(1)
    params = SamplingParams(temperature=1.0, seed=3, top_k=0, top_p=1.0, min_p=0.0, frequency_penalty=2.0)
    one, other = Sampler(params), Sampler(params)
    for step in range(30):
        logits = rng.normal(0, 1, 20).astype(np.float32)
        only = np.zeros(20, np.bool_)
        only[step % 5] = True
        if step % 3 == 0:
            assert one.forced(logits, step % 5) == other.sample(logits, [], only)
        else:
            assert one.sample(logits) == other.sample(logits)


def test_a_forced_token_needs_sound_logits() -> None:
    sampler = Sampler(SamplingParams(seed=0))
    with pytest.raises(BackendError) as caught:
        sampler.forced(np.array([1.0, np.nan], np.float32), 0)
    assert str(caught.value) == NOT_FINITE
    with pytest.raises(BackendError) as caught:
        sampler.forced(np.array([1.0, -np.inf], np.float32), 1)
    assert str(caught.value) == NOT_ALLOWED


def test_the_likeliest_tokens() -> None:
    logits = np.array([0.0, 3.0, 3.0, -np.inf, 1.0], np.float32)
    top = top_logprobs(logits, 3)
    assert [token_id for token_id, _ in top] == [1, 2, 4]
    assert [logprob for _, logprob in top] == pytest.approx(logprobs_of(logits)[[1, 2, 4]])
    assert len(top_logprobs(logits, 99)) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"presence_penalty": float("nan")},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: 100.5}},
        {"logit_bias": {"1": 1.0}},
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SamplingParams(**options)  # type: ignore[arg-type]


def test_generate_takes_them(tmp_path: Path) -> None:
    with load(toys.toy_gguf(tmp_path / "toy.gguf"), threads=1) as model:
        plain = [t.token_id for t in model.generate([1, 2], temperature=0.0, max_tokens=30)]
        varied = [t.token_id for t in model.generate([1, 2], temperature=0.0, max_tokens=30, presence_penalty=2.0)]
        assert len(set(varied)) > len(set(plain))
        only = [t.token_id for t in model.generate([1, 2], temperature=0.0, max_tokens=3, logit_bias={65: 100.0})]
        assert only == [65, 65, 65]
