"""What is pinned: it fits, it reads the least there is, and it is spread over the pass."""

from __future__ import annotations

from itertools import chain, combinations, pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingle.engine.window_plan import GRAIN, Unit, WindowPlan, least_bytes, least_ring_bytes, make_plan


def units_of(*blocks: tuple[int, ...], runs: int = 1) -> list[Unit]:
    """Blocks of matrices of so many grains each, one after the other, each used `runs` times in a pass."""
    sources = [
        SimpleNamespace(sizes=tuple(GRAIN * n for n in sizes), file_bytes=GRAIN * sum(sizes)) for sizes in blocks
    ]
    n = len(blocks)
    at = [tuple((i + n * run, i + n * run) for run in range(runs)) for i in range(n)]
    return [Unit(str(i), cast(Any, source), at[i]) for i, source in enumerate(sources)]


LAYER = ((4, 1, 1, 4), (11, 11, 11))


def check(units: list[Unit], plan: WindowPlan, n_bytes: int) -> None:
    pinned = sum(units[i].n_bytes for i in plan.pinned)
    assert plan.pinned_bytes == pinned
    assert plan.n_bytes == pinned + plan.ring_bytes <= n_bytes
    streamed = [unit for i, unit in enumerate(units) if i not in plan.pinned]
    assert plan.streamed_bytes == sum(unit.source.file_bytes * len(unit.runs) for unit in streamed)
    assert plan.ring_bytes >= least_ring_bytes(units, plan.pinned)


@pytest.mark.parametrize("n_grains", range(40, 360, 7))
def test_more_memory_never_reads_more(n_grains: int) -> None:
    units = units_of(*(LAYER * 6))
    least, everything = least_bytes(units), sum(unit.n_bytes for unit in units)
    plans = [make_plan(units, n * GRAIN) for n in (n_grains, n_grains + 1, n_grains + 30)]
    for n, plan in zip((n_grains, n_grains + 1, n_grains + 30), plans, strict=True):
        assert (plan is None) == (n * GRAIN < least)
        if plan is not None:
            check(units, plan, n * GRAIN)
            assert (plan.streamed_bytes == 0) == (n * GRAIN >= everything)
    read = [plan.streamed_bytes for plan in plans if plan is not None]
    assert read == sorted(read, reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=7),
    st.integers(0, 150),
)
def test_as_little_is_read_as_any_choice_with_that_ring_reads(blocks: list[tuple[int, ...]], n_grains: int) -> None:
    units = units_of(*blocks)
    n_bytes = n_grains * GRAIN
    plan = make_plan(units, n_bytes)
    choices = chain.from_iterable(combinations(range(len(units)), n) for n in range(len(units) + 1))
    feasible = [
        sum(unit.source.file_bytes for i, unit in enumerate(units) if i not in chosen)
        for chosen in map(set, choices)
        if sum(units[i].n_bytes for i in chosen) + least_ring_bytes(units, chosen) <= n_bytes
    ]
    if plan is None:
        assert n_bytes < least_bytes(units)
        return
    check(units, plan, n_bytes)
    # The ring is larger than the least by a third of a block, and that is all that is given away.
    largest = max(unit.n_bytes for unit in units)
    assert plan.streamed_bytes <= min(feasible) + largest + 2 * largest // 3


def test_what_is_read_most_often_stays() -> None:
    often = Unit("often", units_of((5, 5))[0].source, ((0, 0), (2, 2), (4, 4)))
    once = [Unit(str(i), units_of((5, 5))[0].source, ((2 * i + 1, 2 * i + 1),)) for i in range(3)]
    plan = make_plan([*once, often], 10 * GRAIN + least_bytes([*once, often]) + 4 * GRAIN)
    assert plan is not None
    assert 3 in plan.pinned


def test_a_block_used_again_at_once_is_kept_until_then() -> None:
    source = units_of((5, 5))[0].source
    shared = [Unit("attention", source, ((0, 2),)), Unit("feed_forward", source, ((1, 3),))]
    assert least_ring_bytes(shared, ()) == (20 + 5) * GRAIN  # both at once


def test_pinned_blocks_are_spread_over_the_pass() -> None:
    units = units_of(*([(10,)] * 20))
    plan = make_plan(units, (10 * 10 + 10 + 10 + 4) * GRAIN)
    assert plan is not None
    pinned = sorted(plan.pinned)
    assert len(pinned) == 10
    assert max(b - a for a, b in pairwise(pinned)) <= 3


def test_large_blocks_may_stay_so_that_the_ring_is_small() -> None:
    units = units_of((60,), *([(2,)] * 10))
    plan = make_plan(units, (60 + 4 + 8) * GRAIN)
    assert plan is not None
    assert 0 in plan.pinned


@pytest.mark.parametrize(("before", "after"), [(200, 120), (120, 200), (150, 150)])
def test_what_is_held_is_kept(before: int, after: int) -> None:
    units = units_of(*([(10,)] * 20))
    first = make_plan(units, before * GRAIN)
    assert first is not None
    second = make_plan(units, after * GRAIN, first.pinned)
    assert second is not None
    check(units, second, after * GRAIN)
    assert second.pinned <= first.pinned if after < before else second.pinned >= first.pinned
