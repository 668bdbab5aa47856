"""The window beside a store that holds everything: the same numbers, each block read once a pass, ahead of time."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import toys
from ingle.backends.base import Rows
from ingle.backends.reference import ReferenceBackend
from ingle.engine import open_window as opening
from ingle.engine.comm import Alone
from ingle.engine.open_window import all_of, fit, least_of, open_window
from ingle.engine.runner import Runner
from ingle.engine.trace import Trace
from ingle.engine.weights import Resident, Weights
from ingle.engine.window import Window
from ingle.errors import GGUFError, UsageError
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from streaming_fake import StreamingReference

TOKENS = [5, 250, 17, 42, 42, 3, 99]
SCHEDULES = [(0, 1, 2, 3), (0, 0, 1, 1, 2, 2, 3, 3), (0, 1, 2, 3, 0, 1, 2, 3), (3, 3, 3, 1)]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LEAST_SLICE_BYTES", 8 << 10)


@pytest.fixture(autouse=True)
def no_threads_stay() -> Iterator[None]:
    yield
    gc.collect()
    until = time.monotonic() + 10
    while loaders() and time.monotonic() < until:
        time.sleep(0.01)
    assert not loaders()


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ingle-loader")]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(toys.toy_gguf(tmp_path / "toy.gguf", n_layers=4))


def runner_of(checkpoint: Checkpoint, backend: ReferenceBackend, weights: Weights) -> Runner:
    return Runner(checkpoint.spec, backend, weights, Alone(), backend.new_cache(1, 64, "f32"))


def opened(
    checkpoint: Checkpoint, n_bytes: int | None = None, trace: Trace | None = None, **settings: Any
) -> tuple[Runner, Window, Any]:
    """n_bytes: None = the least. settings: of the backend."""
    backend = StreamingReference(checkpoint.spec)
    for name, value in settings.items():
        setattr(backend, name, value)
    window = open_window(checkpoint, backend)
    window.trace = trace
    assert fit(window, least_of(window) if n_bytes is None else n_bytes)
    return runner_of(checkpoint, backend, window), window, backend


def answer(runner: Runner) -> NDArray[np.float32]:
    """A prompt in two chunks, of which the first wants nothing; three steps; all logits."""
    parts = [runner.forward(Rows.of_slot(0, 0, TOKENS[:4])), runner.forward(Rows.of_slot(0, 4, TOKENS[4:]), [0, 2])]
    for position in range(7, 10):
        token = int(parts[-1][-1].argmax())
        parts.append(runner.forward(Rows.of_slot(0, position, [token]), [0]))
    return np.concatenate(parts)


def resident(checkpoint: Checkpoint) -> NDArray[np.float32]:
    backend = ReferenceBackend(checkpoint.spec)
    return answer(runner_of(checkpoint, backend, Resident(checkpoint, backend)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("delay_s", [0, 2e-4])
def test_every_budget_gives_the_bits_of_everything(
    checkpoint: Checkpoint, schedule: tuple[int, ...], delay_s: float
) -> None:
    checkpoint.spec = dataclasses.replace(checkpoint.spec, schedule=schedule)
    expected = resident(checkpoint)
    backend = StreamingReference(checkpoint.spec)
    backend.delay_s = delay_s
    window = open_window(checkpoint, backend)
    runner = runner_of(checkpoint, backend, window)
    least, most = least_of(window), all_of(window)
    assert not fit(window, least - 1)
    for n_bytes in np.linspace(least, most, 7).astype(int).tolist():
        assert fit(window, n_bytes)
        assert window.stats().held_bytes <= n_bytes
        np.testing.assert_array_equal(answer(runner), expected)
    assert window.stats().streamed_bytes == 0
    runner.close()


def test_a_pass_reads_each_streamed_block_once(checkpoint: Checkpoint) -> None:
    runner, window, backend = opened(checkpoint)
    answer(runner)
    n_passes = 5
    runner.close()  # nothing more is read
    reads = Counter(backend.reads)
    pinned = {name for i in window.plan.pinned for name in [window.units[i].name]}
    assert not pinned
    blocks = {name: n for name, n in reads.items() if name.startswith("blk")}
    # Of the pass after the last one, what the ring holds is there already.
    assert set(blocks.values()) <= {n_passes, n_passes + 1}
    ahead = [name for name, n in blocks.items() if n == n_passes + 1]
    assert ahead
    assert all(name.startswith(("blk.0", "blk.1")) for name in ahead)
    assert reads["output.weight"] == 4 * (len(window.units) - 8)  # one chunk wanted no logits


def test_what_is_wanted_twice_in_a_row_is_read_once(checkpoint: Checkpoint) -> None:
    checkpoint.spec = dataclasses.replace(checkpoint.spec, schedule=(0, 0, 1, 1))
    runner, window, backend = opened(checkpoint)
    runner.forward(Rows.of_slot(0, 0, TOKENS))
    runner.close()
    reads = Counter(backend.reads)
    assert reads["blk.1.attn_q.weight"] == reads["blk.1.ffn_up.weight"] == 1
    assert window.stats().passes == 1


def test_reading_goes_on_while_a_block_is_computed(checkpoint: Checkpoint) -> None:
    """Also into the next pass: its first block is read while the last one of this pass is being computed."""
    runner, window, backend = opened(checkpoint)
    seen: list[int] = []
    compute = backend.logits

    def logits(*given: Any) -> Any:
        if len(seen) == len(window.units) - 9:  # the last slice
            deadline = time.monotonic() + 10
            while backend.reads.count("blk.0.attn_q.weight") < 2 and time.monotonic() < deadline:
                time.sleep(0.001)
        seen.append(backend.reads.count("blk.0.attn_q.weight"))
        return compute(*given)

    backend.logits = logits
    runner.forward(Rows.of_slot(0, 0, TOKENS), [0])
    assert seen[-1] == 2
    runner.close()


def test_a_pass_that_was_left_does_not_spoil_the_next(checkpoint: Checkpoint) -> None:
    expected = resident(checkpoint)
    runner, _, backend = opened(checkpoint)
    compute = backend.feed_forward
    for at in range(4):

        def feed_forward(block: Any, state: Any, index: int, at: int = at) -> None:
            if index == at:
                raise KeyboardInterrupt
            compute(block, state, index)

        backend.feed_forward = feed_forward
        with pytest.raises(KeyboardInterrupt):
            runner.forward(Rows.of_slot(0, 0, TOKENS), [0])
        backend.feed_forward = compute
        np.testing.assert_array_equal(answer(runner), expected)
    runner.close()


def test_blocks_may_be_asked_for_in_another_order(checkpoint: Checkpoint) -> None:
    runner, window, _ = opened(checkpoint)
    window.begin(False)
    for position in (5, 2, 2, 7, 0):
        with window.block(position) as block:
            whole = cast(Any, Resident(checkpoint, ReferenceBackend(checkpoint.spec))).block(position).block
            for role, array in whole.items():
                np.testing.assert_array_equal(block[role], array)
    runner.close()


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.2.ffn_down.weight", "output.weight"])
def test_an_error_is_raised_where_the_block_is_wanted_and_the_next_pass_tries_again(
    checkpoint: Checkpoint, name: str
) -> None:
    expected = resident(checkpoint)
    failing = False

    def fail(read: str) -> None:
        if failing and read == name:
            raise GGUFError("the disk failed")

    runner, window, _ = opened(checkpoint, fail=fail)
    runner.forward(Rows.of_slot(0, 0, TOKENS), [0])
    failing = True
    computed = window.stats().passes

    def two_passes() -> None:  # the first blocks of the first of these may be there already
        for _ in range(2):
            runner.forward(Rows.of_slot(0, 0, TOKENS), [0])

    with pytest.raises(GGUFError, match="the disk failed"):
        two_passes()
    assert window.stats().passes <= computed + 2
    failing = False
    np.testing.assert_array_equal(answer(runner), expected)
    runner.close()


def test_an_error_ends_the_loading(checkpoint: Checkpoint) -> None:
    def fail(read: str) -> None:
        raise GGUFError("the disk failed")

    backend = StreamingReference(checkpoint.spec)
    backend.fail = fail
    window = open_window(checkpoint, backend)
    with pytest.raises(GGUFError, match="the disk failed"):
        fit(window, all_of(window))
    window.close()


def test_progress_tells_of_pinned_blocks_and_may_end_the_loading(checkpoint: Checkpoint) -> None:
    told: list[tuple[int, int]] = []
    _, window, _ = opened(checkpoint)
    assert fit(window, all_of(window), lambda done, total: told.append((done, total)))
    assert told == [(i + 1, len(window.units)) for i in range(len(window.units))]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    fit(window, least_of(window))
    with pytest.raises(KeyboardInterrupt):
        fit(window, all_of(window), stop)
    window.close()


def test_numbers_and_trace_tell_of_waiting_and_reading(checkpoint: Checkpoint) -> None:
    runner, window, _ = opened(checkpoint, delay_s=1e-3)
    window.trace = trace = Trace()
    for position in range(3):
        runner.forward(Rows.of_slot(0, position, [7]), [0])
    stats = window.stats()
    assert stats.passes == 3
    assert stats.read_bytes >= 2 * stats.streamed_bytes
    assert stats.waited_s > 0
    assert stats.reading_s > 0
    assert 0 < stats.disk_bytes_per_s < 1e12
    kinds = Counter(event.kind for event in trace.events)
    assert kinds["wait"] == 3 * len(window.units)
    assert kinds["read"] > kinds["wait"]
    read = sum(cast(int, event.details["n_bytes"]) for event in trace.events if event.kind == "read" and event.details)
    assert read >= 2 * stats.streamed_bytes
    runner.close()


def test_matrices_that_are_done_after_later_ones_are_counted_too(checkpoint: Checkpoint) -> None:
    """One loader is still at a matrix when others have the next ones."""
    trace = Trace()
    slow = {"fail": lambda name: time.sleep(0.02 if name.endswith("attn_q.weight") else 0)}
    runner, window, backend = opened(checkpoint, trace=trace, **slow)
    answer(runner)
    runner.close()
    counted: Counter[str] = Counter()
    for event in trace.events:
        if event.kind == "read" and event.details:
            counted[event.name] += cast(int, event.details["n_bytes"])
    headers = checkpoint.source.headers
    for layer in range(4):
        name = f"blk.{layer}.attn_q.weight"
        assert backend.reads.count(name) >= 5
        assert counted[name] == backend.reads.count(name) * headers[name].n_bytes
    assert window.stats().read_bytes >= sum(counted.values())


def test_a_closed_window_gives_nothing_and_a_dropped_one_leaves_no_thread(checkpoint: Checkpoint) -> None:
    runner, window, _ = opened(checkpoint)
    assert loaders()
    runner.close()
    assert not loaders()
    with pytest.raises(UsageError, match="closed"):
        window.begin(True)
    runner, window, _ = opened(checkpoint)
    del runner, window  # `no_threads_stay` looks
