"""How sure a figure is: standard errors, intervals, paired tests, and what a test could have shown.

Everything is a function of arrays, in NumPy alone, and random only through a seed. Two estimates cover all metrics: the
mean of n items, and the ratio of two sums over n independent units, such as the bits over the bytes of each document.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "binomial_stderr",
    "bootstrap_interval",
    "detectable",
    "holm",
    "matched_interval",
    "matched_stderr",
    "mcnemar",
    "mean_stderr",
    "normal_interval",
    "ratio_stderr",
    "sign_flip",
    "wilson_interval",
]

LEVEL = 0.95
RESAMPLES = 10_000
_EXACT = 13  # so many differences have 2^13 sign patterns, fewer than RESAMPLES: all are tried
_BLOCK = 1 << 22  # random numbers held at a time
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf((1 + LEVEL) / 2)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of the figure."""

    low: float
    high: float


def mean_stderr(values: ArrayLike) -> float:
    """The standard error of the mean of `values` [n], which are independent; NaN for fewer than two."""
    x = np.asarray(values, np.float64)
    return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def binomial_stderr(share: float, n: int) -> float:
    """The standard error of a share of n items: `mean_stderr` of its zeros and ones. NaN for fewer than two."""
    return math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan


def ratio_stderr(numerators: ArrayLike, denominators: ArrayLike) -> float:
    """The standard error of sum(numerators) / sum(denominators), both [n] over independent units, by linearisation.

    (Cochran, Sampling Techniques, 1977, 6.4.) NaN for fewer than two units.
    """
    a, b = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    n = len(a)
    if n < 2:
        return math.nan
    residuals = a - a.sum() / b.sum() * b
    return float(math.sqrt(n / (n - 1) * (residuals @ residuals)) / b.sum())


def normal_interval(value: float, stderr: float) -> Interval:
    """value -+ 1.96 stderr."""
    reach = _Z * stderr
    return Interval(value - reach, value + reach)


def wilson_interval(hits: float, n: int) -> Interval:
    """The interval of a share of n items. Sound also where none or all are hits. (Wilson 1927.)"""
    if n == 0:
        return Interval(0.0, 1.0)
    z2 = _Z**2
    share = hits / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach))


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided p of McNemar's exact test: `only_a` items that only A got right, `only_b` that only B did.

    Under the null hypothesis each such item is a fair coin. Items that both got right, or neither, say nothing.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if 2 * fewer >= n:
        return 1.0
    if n <= 1000:  # in whole numbers, exactly
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / (1 << n))
    k = np.arange(fewer + 1)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    logs = log_factorials[n] - log_factorials[k] - log_factorials[n - k] - n * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def matched_interval(only_a: int, only_b: int, n: int) -> Interval:
    """The interval of (share B got right) - (share A got right) on the same n items.

    Agresti and Min (2005): Wald's, with half an item more in each of the four cells, so that no difference at all in
    twenty items does not look like certainty.
    """
    difference = (only_b - only_a) / (n + 2)
    reach = _Z * matched_stderr(only_a, only_b, n)
    return Interval(max(-1.0, difference - reach), min(1.0, difference + reach))


def matched_stderr(only_a: int, only_b: int, n: int) -> float:
    """The standard error that `matched_interval` is made with."""
    more = n + 2
    return math.sqrt((only_a + only_b + 1) - (only_b - only_a) ** 2 / more) / more


def sign_flip(differences: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """The two-sided p of the paired permutation test: how often |sum| is as large when A and B change names by chance.

    differences [n]: B - A of independent units (items; sums of clusters). For differences of -1, 0 and 1 this is
    McNemar's exact test. Up to 13 that are not zero, all patterns are tried; beyond, `resamples` at random and the one
    that is, so that p is never 0 (Phipson and Smyth 2010).
    """
    d = np.asarray(differences, np.float64)
    d = d[d != 0]
    if not len(d):
        return 1.0
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums that are equal on paper count, whatever the rounding
    if len(d) <= _EXACT:
        patterns = np.arange(1 << len(d))[:, None] >> np.arange(len(d)) & 1
        return float((np.abs((2 * patterns - 1) @ d) >= least).mean())
    rng, extreme = np.random.default_rng(seed), 0
    for count in _blocks(resamples, len(d)):
        bits = np.unpackbits(rng.integers(0, 256, (count, -(-len(d) // 8)), np.uint8), axis=1, count=len(d))
        extreme += int((np.abs(2 * (bits @ d) - d.sum()) >= least).sum())
    return (extreme + 1) / (resamples + 1)


def bootstrap_interval(
    numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The BCa bootstrap interval of sum(numerators) / sum(denominators), both [n], denominators above 0.

    The n units are drawn with replacement, numerator and denominator together; paired differences as numerators make
    it a paired bootstrap. (Efron 1987: bias-corrected and accelerated.) NaN for fewer than two units.
    """
    a = np.asarray(numerators, np.float64)
    b = np.asarray(denominators, np.float64)
    n = len(a)
    if n < 2:
        return Interval(math.nan, math.nan)
    value = a.sum() / b.sum()
    rng = np.random.default_rng(seed)
    drawn = []
    for count in _blocks(resamples, n):
        at = rng.integers(0, n, (count, n))
        drawn.append(a[at].sum(axis=1) / b[at].sum(axis=1))
    estimates = np.sort(np.concatenate(drawn))
    if estimates[-1] - estimates[0] <= 1e-12 * abs(value):
        return Interval(float(value), float(value))
    without = (a.sum() - a) / (b.sum() - b)
    spread = without.mean() - without
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    below = np.searchsorted(estimates, value, "left") + np.searchsorted(estimates, value, "right")
    bias = _NORMAL.inv_cdf(min(max(below / (2 * resamples), 0.5 / resamples), 1 - 0.5 / resamples))
    ends = []
    for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + _NORMAL.inv_cdf(share)
        ends.append(_NORMAL.cdf(bias + z / max(1 - acceleration * z, 1e-6)))
    low, high = np.quantile(estimates, ends)
    return Interval(float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number: the chance of any false find stays below the level. (Holm 1979.)"""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def detectable(stderr: float, alpha: float = 1 - LEVEL) -> float:
    """The smallest true difference that a two-sided test at `alpha` shows in 4 of 5 such samples.

    stderr: of the difference.
    """
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(0.8)) * stderr


def _blocks(resamples: int, n: int) -> Iterator[int]:
    """How many resamples of n to hold at a time."""
    most = max(1, _BLOCK // n)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)
