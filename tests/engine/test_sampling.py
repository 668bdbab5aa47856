"""Sampling: what each option does, that draws follow the probabilities, and that native and NumPy agree."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ingle.engine.sampling import Sampler, SamplingParams, native_sample, sample_numpy, uniform
from ingle.errors import BackendError, UsageError

FUNCTIONS = [
    pytest.param(sample_numpy, id="numpy"),
    pytest.param(native_sample(), id="native"),
]
EMPTY = np.empty(0, np.int32)
PLAIN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)


def logits_of(*probabilities: float) -> NDArray[np.float32]:
    return np.log(np.asarray(probabilities)).astype(np.float32)


def drawn(
    params: SamplingParams, logits: NDArray[np.float32], n: int, function: object, history: list[int]
) -> list[int]:
    sampler = Sampler(params, function)  # type: ignore[arg-type]
    return [sampler.sample(logits, history).token_id for _ in range(n)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_draws_follow_the_probabilities(function: object) -> None:
    """Pearson's chi-squared of 20 000 draws is below its 99.9% point for 4 degrees of freedom."""
    p = np.asarray([0.05, 0.4, 0.2, 0.3, 0.05])
    n = 20_000
    counts = np.bincount(drawn(PLAIN, logits_of(*p), n, function, []), minlength=5)
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 18.47


@pytest.mark.parametrize("function", FUNCTIONS)
def test_temperature_bends_the_probabilities(function: object) -> None:
    p = np.asarray([0.1, 0.2, 0.7])
    n = 20_000
    params = SamplingParams(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)
    bent = np.sqrt(p) / np.sqrt(p).sum()
    counts = np.bincount(drawn(params, logits_of(*p), n, function, []), minlength=3)
    assert ((counts - n * bent) ** 2 / (n * bent)).sum() < 13.82


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 1}, {1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.75}, {1, 3, 2}),
        ({"min_p": 0.3}, {1, 2, 3}),
        ({"min_p": 0.6}, {1, 3}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.7}, {1, 3}),  # of the three, 0.4 and 0.3 have 7/9 of the probability
    ],
)
def test_cut_offs(function: object, options: dict[str, float], allowed: set[int]) -> None:
    params = SamplingParams(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 3, **options})  # type: ignore[arg-type]
    assert set(drawn(params, logits_of(0.05, 0.4, 0.2, 0.3, 0.05), 600, function, [])) == allowed


@pytest.mark.parametrize("function", FUNCTIONS)
def test_ties_at_the_top_k_go_to_the_lowest_ids(function: object) -> None:
    params = SamplingParams(temperature=1.0, top_k=3, top_p=1.0, min_p=0.0, seed=3)
    logits = np.asarray([0, 1, 1, 0, 1, 1, 1], np.float32)
    assert set(drawn(params, logits, 200, function, [])) == {1, 2, 4}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_greedy_takes_the_lowest_id_of_equals(function: object) -> None:
    greedy = SamplingParams(temperature=0.0)
    assert drawn(greedy, np.asarray([1, 7, 3, 7, 7], np.float32), 3, function, []) == [1, 1, 1]
    assert drawn(greedy, np.full(1000, -2.5, np.float32), 1, function, []) == [0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_repeat_penalty_knows_the_sign(function: object) -> None:
    """Positive logits are divided and negative ones multiplied: both become less likely; others stay."""
    params = SamplingParams(temperature=0.0, repeat_penalty=2.0)
    assert drawn(params, np.asarray([4.0, 3.0, 1.0], np.float32), 1, function, [0]) == [1]  # 2, 3, 1
    assert drawn(params, np.asarray([-1.0, -1.5, -3.0], np.float32), 1, function, [0, 0, 0]) == [1]  # -2 once, not -8
    assert drawn(params, np.asarray([4.0, 3.0, 1.0], np.float32), 1, function, [0, 1]) == [0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_repeat_last_n_limits_the_memory(function: object) -> None:
    logits = np.asarray([4.0, 3.0, 0.0], np.float32)
    for last_n, expected in [(1, 0), (2, 1), (-1, 1), (0, 0)]:
        params = SamplingParams(temperature=0.0, repeat_penalty=2.0, repeat_last_n=last_n)
        assert drawn(params, logits, 1, function, [0, 2]) == [expected]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_logprob_is_the_models_own(function: object) -> None:
    logits = logits_of(0.1, 0.2, 0.7)
    params = SamplingParams(temperature=0.0, top_k=1, repeat_penalty=3.0)
    sample = Sampler(params, function).sample(logits + np.float32(11), [2])  # type: ignore[arg-type]
    assert sample.logprob == pytest.approx(np.log([0.1, 0.2, 0.7][sample.token_id]), abs=1e-5)


def test_a_seed_repeats_and_seeds_differ() -> None:
    logits = np.zeros(500, np.float32)
    first, again, other = (
        drawn(SamplingParams(top_k=0, seed=seed), logits, 20, sample_numpy, []) for seed in (11, 11, 12)
    )
    assert first == again
    assert first != other
    unseeded = Sampler(SamplingParams())
    assert unseeded.params.seed is not None
    assert Sampler(SamplingParams()).params.seed != unseeded.params.seed


def test_uniform_numbers_are_uniform_and_independent_of_neighbours() -> None:
    numbers = np.asarray([uniform(seed, step) for seed in range(100) for step in range(100)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(set(numbers.tolist())) == len(numbers)
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # 99.9% point, 19 degrees of freedom
    grid = numbers.reshape(100, 100)
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.04


def test_uniform_is_what_other_implementations_must_give() -> None:
    """Pinned: a browser or a server with the same seed must draw the same tokens."""
    # Seed 0 gives SplitMix64's published sequence.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [uniform(0, step) for step in range(3)] == [(z >> 11) / 2**53 for z in published]
    assert [uniform(1, 0), uniform(2**64 - 1, 41)] == [0.7497482413580301, 0.11926427744738288]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(function: object, bad: float) -> None:
    logits = np.zeros(100, np.float32)
    logits[57] = bad
    with pytest.raises(BackendError, match="not finite"):
        Sampler(SamplingParams(), function).sample(logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_minus_infinity_is_never_drawn(function: object) -> None:
    logits = np.asarray([0, -np.inf, 0, -np.inf], np.float32)
    assert set(drawn(PLAIN, logits, 300, function, [1])) == {0, 2}
    with pytest.raises(BackendError, match="not finite"):
        Sampler(PLAIN, function).sample(np.full(4, -np.inf, np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_tiny_temperature_is_greedy(function: object) -> None:
    params = SamplingParams(temperature=1e-300, top_k=0, top_p=1.0, min_p=0.0)
    assert drawn(params, np.asarray([1, 3, 2], np.float32), 50, function, []) == [1] * 50


@pytest.mark.parametrize("n_vocab", [1, 2, 33, 1000, 128_256])
def test_native_draws_the_same_tokens(n_vocab: int) -> None:
    rng = np.random.default_rng(n_vocab)
    native = native_sample()
    for round_ in range(12):
        logits = rng.normal(0, 3, n_vocab).astype(np.float32)
        if round_ % 3 == 0:
            logits = np.round(logits)  # many ties
        params = SamplingParams(
            temperature=float(rng.choice([0.0, 0.3, 0.8, 1.0, 1.7])),
            top_k=int(rng.choice([0, 1, 5, 40, 5000])),
            top_p=float(rng.choice([0.1, 0.9, 0.95, 1.0])),
            min_p=float(rng.choice([0.0, 0.05, 0.5])),
            repeat_penalty=float(rng.choice([1.0, 1.1, 0.8, 2.0])),
            seed=round_,
        )
        history = rng.integers(0, n_vocab, 80).tolist()
        ours, theirs = Sampler(params, sample_numpy), Sampler(params, native)
        for _ in range(20 if n_vocab < 10_000 else 2):
            expected, got = ours.sample(logits, history), theirs.sample(logits, history)
            assert got.token_id == expected.token_id, params
            assert got.logprob == pytest.approx(expected.logprob, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_values_that_cannot_be_are_named(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"{name} is .*; expected"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]
