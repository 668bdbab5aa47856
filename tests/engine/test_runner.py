"""The loop and its seams: other weights, other comms, two devices, rows of several slots."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import toys
from ingle.backends.base import Rows
from ingle.backends.native import NativeBackend
from ingle.backends.reference import ReferenceBackend
from ingle.engine.comm import Alone
from ingle.engine.runner import FEW, Runner
from ingle.engine.weights import Resident
from ingle.errors import UsageError
from ingle.models.checkpoint import Checkpoint, open_checkpoint
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

TOKENS = [5, 250, 17, 42, 42, 3, 99]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(toys.toy_gguf(tmp_path / "toy.gguf"))


def runner_of(checkpoint: Checkpoint, *, n_slots: int = 1, spec: Spec | None = None, **parts: Any) -> Runner:
    spec = spec or checkpoint.spec
    backend = parts.get("backend") or ReferenceBackend(spec)
    weights = parts.get("weights") or Resident(checkpoint, backend)
    return Runner(spec, backend, weights, parts.get("comm") or Alone(), backend.new_cache(n_slots, 32, "f32"))


def test_a_prompt_in_parts_gives_the_logits_of_the_whole(checkpoint: Checkpoint) -> None:
    whole = runner_of(checkpoint).forward(Rows.of_slot(0, 0, TOKENS), range(len(TOKENS)))
    runner = runner_of(checkpoint)
    parts = [runner.forward(Rows.of_slot(0, i, TOKENS[i : i + 2]), [0, 1][: len(TOKENS) - i]) for i in range(0, 7, 2)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_slots_in_one_call_do_not_see_each_other(checkpoint: Checkpoint) -> None:
    runner = runner_of(checkpoint, n_slots=3)
    rows = Rows.join([Rows.of_slot(2, 0, TOKENS), Rows.of_slot(0, 0, TOKENS[::-1])])
    together = runner.forward(rows, [len(TOKENS) - 1, 2 * len(TOKENS) - 1])
    for tokens, logits in zip((TOKENS, TOKENS[::-1]), together, strict=True):
        alone = runner_of(checkpoint).forward(Rows.of_slot(0, 0, tokens), [len(tokens) - 1])
        np.testing.assert_allclose(logits, alone[0], atol=1e-5)


def test_nothing_wanted_reads_no_output_matrix(checkpoint: Checkpoint) -> None:
    backend = toys.ScriptedBackend(checkpoint.spec, lambda tokens: 0)
    backend.logits = None  # type: ignore[assignment,method-assign]  # calling it would fail
    runner = runner_of(checkpoint, backend=backend)
    assert runner.forward(Rows.of_slot(0, 0, TOKENS)).shape == (0, checkpoint.spec.n_vocab)


def test_a_closed_runner_computes_no_more(checkpoint: Checkpoint) -> None:
    runner = runner_of(checkpoint)
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.forward(Rows.of_slot(0, 0, TOKENS))


class Fetched:
    """A store that has one block at a time: the others are gone while it is used, and it is gone after its `with`. Its
    output comes in two slices."""

    def __init__(self, checkpoint: Checkpoint, backend: ReferenceBackend) -> None:
        self.checkpoint = checkpoint
        self.backend = backend
        self.embedding = backend.load_embedding(checkpoint.embedding())
        self.order: list[int] = []
        self.begun: list[bool] = []
        self.closed = False

    def begin(self, logits: bool) -> None:
        self.begun.append(logits)

    def outputs(self) -> Iterator[Mapping[str, Any]]:
        output = self.backend.load_output(self.checkpoint.output(), self.embedding)
        for rows in (slice(0, 16), slice(16, None)):
            self.current = {role: array[rows] if role == "weight" else array for role, array in output.items()}
            yield self.current
            self.current.clear()

    def close(self) -> None:
        self.closed = True

    def block(self, index: int) -> Fetched:
        self.order.append(index)
        return self

    def __enter__(self) -> Mapping[str, Any]:
        layer = self.checkpoint.spec.schedule[self.order[-1] // 2]
        if self.order[-1] % 2:
            self.current = dict(self.backend.load_feed_forward(self.checkpoint.feed_forward(layer)))
        else:
            self.current = dict(self.backend.load_attention(self.checkpoint.attention(layer)))
        return self.current

    def __exit__(self, *exception: object) -> None:
        self.current.clear()


def test_weights_can_come_from_another_store(checkpoint: Checkpoint) -> None:
    backend = ReferenceBackend(checkpoint.spec)
    weights = Fetched(checkpoint, backend)
    runner = runner_of(checkpoint, backend=backend, weights=weights)
    assert runner.forward(Rows.of_slot(0, 0, TOKENS[:3])).shape == (0, checkpoint.spec.n_vocab)
    logits = runner.forward(Rows.of_slot(0, 0, TOKENS), [6])
    np.testing.assert_array_equal(logits, runner_of(checkpoint).forward(Rows.of_slot(0, 0, TOKENS), [6]))
    assert weights.order == [0, 1, 2, 3] * 2
    assert weights.begun == [False, True]
    runner.close()
    assert weights.closed


def test_shared_layers_are_loaded_once(checkpoint: Checkpoint) -> None:
    checkpoint.spec = dataclasses.replace(checkpoint.spec, schedule=(0, 0, 1, 1, 0))
    loads: list[tuple[int, int]] = []
    weights = Resident(checkpoint, ReferenceBackend(checkpoint.spec), lambda done, total: loads.append((done, total)))
    assert loads == [(n, 6) for n in range(1, 7)]
    blocks = []
    for index in range(10):
        with weights.block(index) as block:
            blocks.append(block)
    assert blocks[0] is blocks[2] is blocks[8]
    assert blocks[5] is blocks[7]
    assert blocks[0] is not blocks[4]
    assert set(blocks[0]) >= {"q", "k", "v", "o"}
    assert set(blocks[1]) >= {"up", "down"}


class Counting:
    """Two devices, of which the other has nothing to add."""

    rank = 0
    n_ranks = 2

    def __init__(self) -> None:
        self.sums = 0

    def sum(self, x: NDArray[np.float32]) -> None:
        assert x.shape == (len(TOKENS), 32)
        self.sums += 1


@pytest.mark.parametrize(("parallel", "sums"), [(False, 4), (True, 2)])
def test_comm_sums_once_per_block_or_once_per_parallel_layer(checkpoint: Checkpoint, parallel: bool, sums: int) -> None:
    spec = dataclasses.replace(checkpoint.spec, parallel=parallel)
    comm = Counting()
    logits = runner_of(checkpoint, spec=spec, comm=comm).forward(Rows.of_slot(0, 0, TOKENS), [6])
    assert comm.sums == sums
    np.testing.assert_array_equal(logits, runner_of(checkpoint, spec=spec).forward(Rows.of_slot(0, 0, TOKENS), [6]))


class Pair:
    """Two devices in two threads."""

    n_ranks = 2

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=30)
        self.parts: dict[int, NDArray[np.float32]] = {}

    def of_rank(self, rank: int) -> Any:
        pair = self

        class Half:
            n_ranks = 2

            def __init__(self) -> None:
                self.rank = rank

            def sum(self, x: NDArray[np.float32]) -> None:
                pair.parts[rank] = x.copy()
                pair.barrier.wait()
                x += pair.parts[1 - rank]
                pair.barrier.wait()

        return Half()


class HalfCheckpoint:
    """One device's share: half of the heads and half of the feed-forward's columns."""

    def __init__(self, whole: Checkpoint, rank: int) -> None:
        self.whole = whole
        self.rank = rank
        spec = whole.spec
        self.spec = dataclasses.replace(
            spec, n_heads=spec.n_heads // 2, n_kv_heads=spec.n_kv_heads // 2, n_ff=spec.n_ff // 2
        )
        self.embedding, self.output, self.source = whole.embedding, whole.output, whole.source

    def _cut(self, tensors: Mapping[str, Tensor], rows: set[str], columns: set[str]) -> dict[str, Tensor]:
        cut = dict(tensors)
        for role in rows | columns:
            halves = np.split(tensors[role].float32(), 2, axis=0 if role in rows else 1)
            cut[role] = Tensor.from_float32(role, halves[self.rank])
        return cut

    def attention(self, layer: int) -> dict[str, Tensor]:
        return self._cut(self.whole.attention(layer), {"q", "k", "v"}, {"o"})

    def feed_forward(self, layer: int) -> dict[str, Tensor]:
        return self._cut(self.whole.feed_forward(layer), {"gate", "up"}, {"down"})


def test_two_devices_give_what_one_gives(checkpoint: Checkpoint) -> None:
    expected = runner_of(checkpoint).forward(Rows.of_slot(0, 0, TOKENS), range(len(TOKENS)))
    pair = Pair()
    results: dict[int, NDArray[np.float32]] = {}

    def device(rank: int) -> None:
        half = HalfCheckpoint(checkpoint, rank)
        runner = runner_of(half, comm=pair.of_rank(rank))  # type: ignore[arg-type]
        runner.forward(Rows.of_slot(0, 0, TOKENS[:3]))
        results[rank] = runner.forward(Rows.of_slot(0, 3, TOKENS[3:]), range(4))

    threads = [threading.Thread(target=device, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(2):
        np.testing.assert_allclose(results[rank], expected[3:], atol=2e-5)


class Calls:
    """A backend that tells what was called, without the methods in `lacking`."""

    def __init__(self, inner: NativeBackend, *lacking: str) -> None:
        self.inner, self.lacking = inner, lacking
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in self.lacking:
            raise AttributeError(name)
        self.called.append(name)
        return getattr(self.inner, name)


@pytest.mark.parametrize("schedule", [(0, 1), (0, 0, 1)])
def test_few_rows_take_one_call_and_give_the_same_bits(checkpoint: Checkpoint, schedule: tuple[int, ...]) -> None:
    checkpoint.spec = dataclasses.replace(checkpoint.spec, schedule=schedule)
    backends = [Calls(NativeBackend(checkpoint.spec, 2)), Calls(NativeBackend(checkpoint.spec, 2), "run_linked")]
    linked, apart = (
        runner_of(checkpoint, backend=backend, weights=Resident(checkpoint, cast(Any, backend.inner)))
        for backend in backends
    )
    for start, n in ((0, 7), (7, 1), (8, 1), (0, FEW), (0, FEW + 1)):
        rows = Rows.of_slot(0, start, [3 + (start + i) % 20 for i in range(n)])
        np.testing.assert_array_equal(linked.forward(rows, [n - 1]), apart.forward(rows, [n - 1]))
    assert [backend.called.count("run_linked") for backend in backends] == [5, 0]
    assert [backend.called.count("attention") for backend in backends] == [1, 5]
