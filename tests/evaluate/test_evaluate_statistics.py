"""Standard errors, intervals and tests, against SciPy, against hand computations, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from ingle.evaluate.statistics import (
    Interval,
    binomial_stderr,
    bootstrap_interval,
    detectable,
    holm,
    matched_interval,
    matched_stderr,
    mcnemar,
    mean_stderr,
    normal_interval,
    ratio_stderr,
    sign_flip,
    wilson_interval,
)

RNG = np.random.default_rng(7)
BEGIN = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Each test begins with the same random numbers, whichever others ran before it."""
    RNG.bit_generator.state = BEGIN


def of_mean(values: ArrayLike, **settings: int) -> Interval:
    return bootstrap_interval(values, np.ones(len(np.asarray(values))), **settings)


def test_standard_errors_of_means() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = RNG.normal(3, 2, 50)
    assert mean_stderr(values) == pytest.approx(stats.sem(values), rel=1e-12)
    hits = np.array([1.0] * 30 + [0.0] * 12)
    assert binomial_stderr(30 / 42, 42) == pytest.approx(stats.sem(hits), rel=1e-12)
    assert math.isnan(mean_stderr([1.0]))
    assert math.isnan(mean_stderr([]))
    assert math.isnan(binomial_stderr(1.0, 1))
    assert math.isnan(ratio_stderr([1.0], [2.0]))


def test_ratio_error_is_what_repeated_sampling_shows() -> None:
    def sample() -> tuple[np.ndarray, np.ndarray]:
        sizes = RNG.integers(20, 200, 80).astype(float)
        return sizes * RNG.gamma(9, 0.3, 80), sizes

    ratios = [a.sum() / b.sum() for a, b in (sample() for _ in range(2000))]
    errors = [ratio_stderr(*sample()) for _ in range(200)]
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.06)


def test_intervals_of_shares() -> None:
    stats = pytest.importorskip("scipy.stats")
    for hits, n in ((0, 20), (20, 20), (3, 17), (500, 1000)):
        theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
        ours = wilson_interval(hits, n)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    assert normal_interval(5.0, 1.0).high == pytest.approx(6.959964, abs=1e-6)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for a, b in ((0, 0), (0, 1), (0, 6), (1, 9), (5, 5), (40, 61), (480, 521), (500, 600), (1500, 1400), (9000, 9400)):
        expected = 1.0 if a + b == 0 else stats.binomtest(a, a + b, 0.5).pvalue
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9), (a, b)
        assert mcnemar(b, a) == mcnemar(a, b)


def test_sign_flips_are_mcnemar_for_hits_and_misses() -> None:
    for only_a, only_b in ((1, 5), (2, 11), (20, 41), (300, 360)):
        d = np.array([-1.0] * only_a + [1.0] * only_b + [0.0] * 50)
        p = mcnemar(only_a, only_b)
        tolerance = 1e-12 if only_a + only_b <= 13 else 4 * math.sqrt(p * (1 - p) / 10_000) + 2e-4
        assert sign_flip(d) == pytest.approx(p, abs=tolerance)
    assert sign_flip(np.zeros(5)) == sign_flip([]) == 1.0
    assert sign_flip([0.1] * 12) == 2 / 2**12  # 0.1 + 0.1 + ... rounds differently in every order
    assert sign_flip(np.ones(100)) == 1 / 10_001


def test_sign_flips_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    d = RNG.exponential(1, 11) - 0.6
    theirs = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(d) == pytest.approx(theirs, rel=1e-9)


def test_the_same_seed_gives_the_same() -> None:
    d = RNG.normal(0.1, 1, 200)
    assert sign_flip(d, seed=3) == sign_flip(d, seed=3)
    assert of_mean(d, seed=3) == of_mean(d, seed=3)
    assert of_mean(d, seed=3) != of_mean(d, seed=4)


def test_bootstrap_is_scipys_bca() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = RNG.exponential(1, 60)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    ours = of_mean(values, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    percentile = np.quantile(values[RNG.integers(0, 60, (20_000, 60))].mean(axis=1), [0.025, 0.975])
    assert ours.low > percentile[0] + 0.005  # the skew is corrected
    assert ours.high > percentile[1] + 0.005


def test_bootstrap_of_a_ratio() -> None:
    sizes = RNG.integers(20, 200, 300).astype(float)
    sums = sizes * RNG.gamma(9, 0.3, 300)
    found, expected = (
        bootstrap_interval(sums, sizes),
        normal_interval(sums.sum() / sizes.sum(), ratio_stderr(sums, sizes)),
    )
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.01)


def test_bootstrap_of_what_does_not_vary() -> None:
    assert of_mean([2.0] * 5) == Interval(2.0, 2.0)
    third = bootstrap_interval([1 / 3, 7 / 3, 0.1], [1.0, 7.0, 0.3])  # equal on paper
    assert (third.low, third.high) == pytest.approx((1 / 3, 1 / 3))
    outlier = of_mean([1.0] + [0.0] * 999)
    assert 0 <= outlier.low <= 0.001 < outlier.high < 0.01
    assert math.isnan(of_mean([2.0]).low)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# What the tests promise, on data that is made to have no difference, or one.

TRIALS = 1500


def within(share: float, level: float, trials: int = TRIALS) -> bool:
    """Whether a share of trials is what a probability of `level` gives, within 4 standard errors."""
    return abs(share - level) < 4 * math.sqrt(level * (1 - level) / trials)


def paired_hits(n: int, p_a: float, p_b: float, rho: float) -> tuple[int, int]:
    """(only A right, only B right) of two models that find the same items hard."""
    shared = RNG.random(n) < rho
    first = RNG.random(n)
    second = np.where(shared, first, RNG.random(n))
    a, b = first < p_a, second < p_b
    return int((a & ~b).sum()), int((b & ~a).sum())


def test_size_of_mcnemar() -> None:
    rejected = np.mean([mcnemar(*paired_hits(400, 0.4, 0.4, 0.7)) < 0.05 for _ in range(TRIALS)])
    assert 0.02 < rejected < 0.05 + 4 * math.sqrt(0.05 * 0.95 / TRIALS)  # exact: never above its level, a little below


def test_coverage_of_the_matched_interval() -> None:
    for n in (30, 400):
        covered = 0
        for _ in range(TRIALS):
            found = matched_interval(*paired_hits(n, 0.4, 0.5, 0.7), n)
            covered += found.low <= 0.1 <= found.high
        assert 0.93 < covered / TRIALS < 0.985
    nothing = matched_interval(0, 0, 20)
    assert nothing.high == -nothing.low == pytest.approx(0.0891, abs=1e-4)


def test_power_is_what_the_detectable_difference_says() -> None:
    """Eight of ten samples show a difference as large as was said to be detectable."""
    n = 600
    only_a, only_b = 60, 60  # a pilot without a difference
    least = detectable(matched_stderr(only_a, only_b, n))
    share = (only_a + only_b) / n
    shown = 0
    for _ in range(TRIALS):
        discordant = RNG.binomial(n, share)
        better = RNG.binomial(discordant, 0.5 + least / share / 2)
        shown += mcnemar(discordant - better, better) < 0.05
    assert 0.72 < shown / TRIALS < 0.86


def test_size_and_power_of_sign_flips() -> None:
    trials = 400
    null = np.mean([sign_flip(RNG.standard_t(4, 30), resamples=999) < 0.05 for _ in range(trials)])
    assert within(float(null), 0.05, trials)
    least = detectable(1 / math.sqrt(60))
    power = np.mean([sign_flip(RNG.normal(least, 1, 60), resamples=999) < 0.05 for _ in range(trials)])
    assert within(float(power), 0.8, trials)


def test_coverage_of_the_bootstrap() -> None:
    trials = 400
    covered = 0
    for seed in range(trials):
        found = of_mean(RNG.exponential(1, 80), seed=seed, resamples=1000)
        covered += found.low <= 1 <= found.high
    assert 0.91 < covered / trials < 0.98
