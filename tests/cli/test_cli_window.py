"""What a window did while an answer was made, as people and programs are told it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ingle.cli.window import WindowUse, WindowWatch
from ingle.engine.token import Stats
from ingle.engine.window import WindowStats

MIB = 1 << 20
BEFORE = WindowStats(
    pinned_bytes=1, ring_bytes=1, experts_bytes=1, streamed_bytes=1, read_bytes=5, reading_s=1.0, waited_s=2.0, passes=3
)
NOW = WindowStats(
    pinned_bytes=600 * MIB,
    ring_bytes=64 * MIB,
    experts_bytes=0,
    streamed_bytes=512 * MIB,
    read_bytes=5 + 11 * 512 * MIB,
    reading_s=1.0 + 4.0,
    waited_s=2.0 + 1.5,
    passes=14,
)
STATS = Stats(prompt_tokens=9, cached_tokens=0, n_tokens=11, prefill_s=1.0, ttft_s=1.1, decode_s=5.0)


def told(use: WindowUse, stats: Stats = STATS) -> dict[str, str]:
    return dict(use.lines(stats))


def test_the_numbers_are_of_the_answer_alone() -> None:
    record = json.loads(json.dumps(WindowUse.between(BEFORE, NOW).as_dict(STATS)))
    assert record == {
        "pinned_bytes": 600 * MIB,
        "ring_bytes": 64 * MIB,
        "experts_bytes": 0,
        "streamed_bytes": 512 * MIB,
        "read_bytes": 11 * 512 * MIB,
        "reading_s": 4.0,
        "waited_s": 1.5,
        "passes": 11,
        "expert_hits": 0,
        "expert_misses": 0,
        "disk_bytes_per_s": 11 * 128 * MIB,
        "waited_share": 0.25,
        "floor_s_per_token": pytest.approx(4 / 11),
        "s_per_token": 0.5,
    }


def test_lines_for_people() -> None:
    assert told(WindowUse.between(BEFORE, NOW)) == {
        "window": "600.0 MiB of weights stay in memory, 512.0 MiB are read for each token through 64.0 MiB",
        "disk": "5.50 GiB read at 1.38 GiB/s; 25% of the answer's time was waiting for it",
        "floor": "0.364 s a token for reading; a token took 0.500 s, the floor is 73% of it",
    }


def test_the_floor_is_of_decoding_where_there_was_some() -> None:
    """A prompt's chunk takes the processor from those who read."""
    first = replace(BEFORE, read_bytes=NOW.read_bytes - 10 * 512 * MIB, reading_s=NOW.reading_s - 2.0, passes=4)
    use = WindowUse.between(BEFORE, NOW, first)
    assert use.floor_s == pytest.approx(0.2)
    assert use.disk_bytes_per_s == 11 * 128 * MIB
    assert told(use)["floor"] == "0.200 s a token for reading; a token took 0.500 s, the floor is 40% of it"
    assert "decoding" not in use.as_dict(STATS)
    only = WindowUse.between(BEFORE, NOW, NOW)  # the first token was the last
    assert only.floor_s == pytest.approx(4 / 11)


def test_where_all_stays_nothing_is_said_of_a_disk() -> None:
    use = WindowUse.between(BEFORE, replace(NOW, ring_bytes=0, streamed_bytes=0, read_bytes=5, reading_s=1.0))
    assert told(use) == {"window": "all 600.0 MiB of weights stay in memory; nothing is read from disk"}
    record = use.as_dict(STATS)
    assert record["disk_bytes_per_s"] is record["floor_s_per_token"] is None


def test_an_answer_that_never_came_to_a_token() -> None:
    use = WindowUse.between(BEFORE, replace(NOW, read_bytes=5, reading_s=1.0))
    assert told(use, Stats(prompt_tokens=9, cached_tokens=0))["disk"] == "0 B read"
    record = use.as_dict(Stats(prompt_tokens=9, cached_tokens=0))
    assert record["waited_share"] is record["s_per_token"] is record["floor_s_per_token"] is None
    first = Stats(prompt_tokens=9, cached_tokens=0, n_tokens=1, prefill_s=3.0, ttft_s=3.0)
    assert told(WindowUse.between(BEFORE, NOW), first)["floor"] == "0.364 s a token for reading"


def test_a_mixture_has_experts() -> None:
    now = replace(NOW, experts_bytes=200 * MIB, streamed_bytes=0, expert_hits=30, expert_misses=10)
    use = WindowUse.between(BEFORE, now)
    assert told(use)["window"] == (
        "600.0 MiB of weights stay in memory; experts go through 200.0 MiB, which had 75% of those asked for"
    )
    # What a token needs is not known beforehand: what was read on average is.
    assert use.floor_s == pytest.approx(4 / 11)


def test_a_model_without_a_window() -> None:
    class Whole:
        window = None

    with WindowWatch(Whole()) as watch:  # type: ignore[arg-type]
        assert watch.use is None
    assert watch.use is None
