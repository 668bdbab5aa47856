"""The ring grows where the disk stands still and is waited for, and only there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from ingle.engine import window_tuner
from ingle.engine.window import WindowStats
from ingle.engine.window_tuner import Tuner

A_PASS_S = 1.0


class Counted:
    """A window of which only the numbers are there."""

    def __init__(self) -> None:
        self.ahead = 1 / 3
        self.n_bytes = 1000
        self.now = WindowStats(800, 200, 0, 500, 0, 0.0, 0.0, 0)

    def stats(self) -> WindowStats:
        return self.now

    def after(self, reading: float, waited: float) -> Counted:
        """A pass in which there was so much reading and waiting."""
        now = self.now
        self.now = replace(
            now,
            passes=now.passes + 1,
            in_passes_s=now.in_passes_s + A_PASS_S,
            reading_in_passes_s=now.reading_in_passes_s + reading,
            reading_s=now.reading_s + reading,
            waited_s=now.waited_s + waited,
        )
        return self


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How much was asked to be read ahead, each time."""
    asked: list[float] = []

    def fit(window: Counted, n_bytes: int) -> bool:
        assert n_bytes == 1000
        asked.append(round(window.ahead, 2))
        window.now = replace(window.now, ring_bytes=window.now.ring_bytes + 100)
        return window.ahead < 1.5

    monkeypatch.setattr(window_tuner, "fit", fit)
    return asked


def run(window: Counted, passes: int, reading: float, waited: float) -> None:
    tuner = Tuner()
    for _ in range(passes):
        tuner(cast(Any, window))
        window.after(reading, waited)


@pytest.mark.parametrize(
    ("reading", "waited"),
    [(1.0, 0.9), (0.97, 0.5), (0.2, 0.01), (0.0, 0.0)],
    ids=["disk", "nearly", "processor", "idle"],
)
def test_nothing_changes_where_nothing_is_to_be_gained(fitted: list[float], reading: float, waited: float) -> None:
    run(Counted(), 40, reading, waited)
    assert fitted == []


def test_the_ring_grows_step_by_step_while_that_is_so(fitted: list[float]) -> None:
    window = Counted()
    run(window, 15, reading=0.7, waited=0.2)
    assert fitted == [0.67, 1.0, 1.33]
    run(window, 200, reading=0.7, waited=0.2)
    assert set(fitted) == {0.67, 1.0, 1.33, 1.67}  # which does not fit
    assert window.ahead == pytest.approx(4 / 3)


def test_a_window_that_streams_nothing_is_left_alone(fitted: list[float]) -> None:
    window = Counted()
    window.now = replace(window.now, streamed_bytes=0)
    run(window, 40, reading=0.5, waited=0.5)
    assert fitted == []
