"""Learning-rate schedules against their closed forms at the corners."""

from __future__ import annotations

import math

import pytest

from ingle.errors import UsageError
from ingle.train.schedule import MIN_WARMUP_STEPS, factor

WSD = {"warmup": 0.1, "decay": 0.4, "final": 0.2}


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0, 0), (0.05, 0.5), (0.1, 1), (0.55, 0.1 + 0.9 * 0.5), (0.325, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), (1, 0.1)],
)
def test_cosine(done: float, expected: float) -> None:
    assert factor("cosine", done, warmup=0.1, decay=0.9, final=0.1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("done", "expected"), [(0, 0), (0.025, 0.25), (0.1, 1), (0.35, 1), (0.6, 1), (0.8, 0.6), (0.9, 0.4), (1, 0.2)]
)
def test_wsd(done: float, expected: float) -> None:
    assert factor("wsd", done, **WSD) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_no_warmup_begins_at_the_peak_and_past_the_ends_is_at_the_ends(schedule: str) -> None:
    shares = {"warmup": 0.0, "decay": 0.5, "final": 0.0}
    assert factor(schedule, -1, **shares) == factor(schedule, 0, **shares) == 1
    assert factor(schedule, 2, **shares) == factor(schedule, 1, **shares) == 0


@pytest.mark.parametrize(("warmup", "decay"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7), (0.0, 0.0)])
def test_extreme_shares_stay_finite_and_within_the_peak(warmup: float, decay: float) -> None:
    for schedule in ("cosine", "wsd"):
        values = [factor(schedule, i / 100, warmup=warmup, decay=decay, final=0.1) for i in range(101)]
        assert all(0 <= value <= 1 for value in values)
        rising = round(warmup * 100)
        assert values[: rising + 1] == sorted(values[: rising + 1])
        assert values[rising + 1 :] == sorted(values[rising + 1 :], reverse=True)


def test_the_first_steps_warm_up_however_short_the_share() -> None:
    first = [factor("wsd", 0.5, **WSD, step=step) for step in range(MIN_WARMUP_STEPS + 1)]
    assert first == [*((step + 0.5) / MIN_WARMUP_STEPS for step in range(MIN_WARMUP_STEPS)), 1]
    assert factor("wsd", 0.8, **WSD, step=8) == pytest.approx(0.6)  # the lower of the two


@pytest.mark.parametrize("shares", [{"warmup": 0.5, "decay": 0.6}, {"warmup": -0.1}, {"final": 1.1}])
def test_shares_that_do_not_fit(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"at most 1\.|from 0 to 1\."):
        factor("wsd", 0.5, **{**WSD, **shares})
