"""The loader: batches are the documents, and the stream goes on exactly, whoever asks and whenever it was stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingle.errors import DataError, TrainingError
from ingle.train.data import packing
from ingle.train.data.batches import IGNORED, Batch, join
from ingle.train.data.loader import Loader, validation_rows
from ingle.train.data.shard_format import Shards

VOCABULARY = 1000


def shards_of(counts: list[int], *, learn: bool = False, shard_tokens: int = 2**28, **changes: Any) -> Shards:
    """Documents whose token at offset i is i, or with a bit of learning for it, drawn."""
    n = sum(counts)
    flags = np.random.default_rng(0).random(n) < 0.6
    files = [slice(begin, begin + shard_tokens) for begin in range(0, n, shard_tokens)]
    shards = Shards(
        tokens=tuple(np.arange(n, dtype="<u2")[file] for file in files),
        learn=tuple(np.packbits(flags[file], bitorder="little") if learn else None for file in files),
        ends=np.cumsum(counts),
        sources=np.zeros(len(counts), np.uint16),
        weights=np.ones(1),
        vocabulary_size=VOCABULARY,
        digest="d1",
        shard_tokens=shard_tokens,
    )
    return replace(shards, **changes)


COUNTS = [2, 40, 9, 9, 17, 30, 5, 21, 3, 8, 12, 12, 2, 33, 64]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def take(loader: Loader, steps: int, **arguments: Any) -> list[Batch]:
    return [join(loader.next(**arguments)) for _ in range(steps)]


def same(a: list[Batch], b: list[Batch]) -> bool:
    fields = ("tokens", "targets", "documents")
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, name), getattr(y, name)) for x, y in zip(a, b, strict=True) for name in fields
    )


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("shard_tokens", [2**28, 64])
def test_an_epoch_of_batches_is_the_documents(learn: bool, shard_tokens: int) -> None:
    shards = shards_of(COUNTS, learn=learn, shard_tokens=shard_tokens)
    flags = np.random.default_rng(0).random(sum(COUNTS)) < 0.6
    with Loader(shards, 16, 1, seed=3) as loader:
        n_rows = loader.epoch_rows()
        batch = join([join(loader.next()) for _ in range(n_rows)])
        assert loader.epoch_positions() == 16 * n_rows
    assert (batch.tokens.dtype, batch.targets.dtype, batch.documents.dtype) == (np.int64, np.int64, np.int32)
    firsts = {0, *np.cumsum(COUNTS)[:-1].tolist()}
    expected = [i for i in range(sum(COUNTS)) if i not in firsts and (flags[i] or not learn)]
    counted = batch.targets != IGNORED
    assert sorted(batch.targets[counted].tolist()) == expected
    assert (batch.targets[counted] == batch.tokens[counted] + 1).all()
    # Attention stays within a document, and a number stands for one stretch of it.
    document = np.searchsorted(shards.ends, batch.tokens, "right")
    for row in range(n_rows):
        numbers = batch.documents[row]
        assert (np.diff(numbers) >= 0).all()
        padding = ~counted[row] & (batch.tokens[row] == 0) & (numbers == numbers[-1])
        for number in set(numbers[~padding].tolist()):
            at = (numbers == number) & ~padding
            assert len(set(document[row][at].tolist())) == 1
            assert (np.diff(batch.tokens[row][at]) == 1).all()


def test_ignored_is_that_of_the_loss() -> None:
    assert pytest.importorskip("ingle.train.loss").IGNORED == IGNORED


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 30), st.integers(1, 7), st.integers(1, 7), st.integers(0, 3))
def test_a_restored_loader_goes_on_with_the_same_batches(stop: int, rows: int, rows_after: int, seed: int) -> None:
    shards = shards_of(COUNTS, learn=True)
    with Loader(shards, 16, rows, seed) as loader, Loader(shards, 16, rows_after, seed) as restored:
        take(loader, stop)
        state = json.loads(json.dumps(loader.state()))
        rows_of_loader = join(take(loader, 2 * rows_after))
        take(restored, 1)  # what it has ahead must not survive
        restored.restore(state)
        assert restored.state() == state
        assert same([join(take(restored, 2 * rows))], [rows_of_loader])


def test_small_windows_and_epochs_roll_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW_DOCUMENTS", 4)
    shards = shards_of(COUNTS)
    with Loader(shards, 16, 5) as loader, Loader(shards, 16, 1) as single:
        n_rows = loader.epoch_rows(0) + loader.epoch_rows(1) + loader.epoch_rows(2)
        steps = -(-n_rows // 5)
        rows = join(take(single, 5 * steps))
        epochs = []
        for step in range(steps):
            if step in (2, steps - 1):
                with Loader(shards, 16, 5) as restored:
                    restored.restore(loader.state())
                    again = take(restored, 1)
            epochs.append(loader.epoch)
            batch = take(loader, 1)
            if step in (2, steps - 1):
                assert same(again, batch)
            assert np.array_equal(batch[0].tokens, rows.tokens[5 * step : 5 * step + 5])
    assert sorted(set(epochs)) == [0, 1, 2]
    targets = rows.targets[:n_rows][rows.targets[:n_rows] != IGNORED]
    assert set(np.bincount(targets)[1:].tolist()) == {0, 3}


@pytest.mark.parametrize("learn", [False, True])
def test_ranks_and_micro_batches_share_the_rows_of_one(learn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW_DOCUMENTS", 4)
    shards = shards_of(COUNTS, learn=learn)
    with Loader(shards, 16, 6) as alone, Loader(shards, 16, 6) as a, Loader(shards, 16, 6) as b:
        for _ in range(12):
            whole = join(alone.next())
            parts = [a.next(0, 2, micro_rows=2), b.next(1, 2, micro_rows=1)]
            assert [[part.n_rows for part in rank] for rank in parts] == [[2, 1], [1, 1, 1]]
            for rank, part in enumerate(parts):
                assert same(
                    [join(part)], [Batch(whole.tokens[rank::2], whole.targets[rank::2], whole.documents[rank::2])]
                )
            assert alone.n_targets == a.n_targets == b.n_targets == whole.n_targets
            assert alone.state() == a.state() == b.state()


def test_another_rank_may_ask_for_the_next_step() -> None:
    shards = shards_of(COUNTS)
    with Loader(shards, 16, 4) as loader, Loader(shards, 16, 4) as alone:
        asked = [loader.next(*at)[0] for at in ((0, 2), (1, 4), (0, 1))]
        whole = take(alone, 3)
    assert np.array_equal(asked[0].tokens, whole[0].tokens[::2])
    assert np.array_equal(asked[1].tokens, whole[1].tokens[1::4])
    assert np.array_equal(asked[2].tokens, whole[2].tokens)


def test_batches_may_be_written_to() -> None:
    shards = shards_of(COUNTS)
    with Loader(shards, 16, 4) as loader:
        for batch in take(loader, 2):
            assert batch.tokens.flags.writeable
            assert batch.tokens.flags.c_contiguous
            batch.tokens[:] = 0
    assert shards.tokens[0].tolist() == list(range(sum(COUNTS)))


def test_weights_and_learning_decide_the_stream() -> None:
    shards = shards_of([10] * 40, sources=np.repeat([0, 1], 20).astype(np.uint16), weights=np.array([2.0, 0.0]))
    with Loader(shards, 9, 1) as loader:
        assert loader.epoch_rows() == 40
        assert join(take(loader, 40)).tokens.max() < 200
    with Loader(shards_of([12] * 30), 16, 1) as cut, Loader(shards_of([12] * 30, learn=True), 16, 1) as whole:
        assert cut.epoch_rows() < whole.epoch_rows() == 30  # an answer stays with its question


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "its seed was 8 and is now 7"),
        ({"positions": 17}, "its positions was 17 and is now 16"),
        ({"shards digest": "d2"}, "its shards digest was 'd2' and is now 'd1'"),
        ({"loader": None}, "its loader was None"),
        ({"epoch": -1}, "damaged"),
        ({"row": "3"}, "damaged"),
        ({"row": 10**6}, "damaged"),
        ({"window": 9}, "damaged"),
        ({"epoch": 2**40}, "damaged"),
    ],
)
def test_a_state_of_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    with Loader(shards_of(COUNTS), 16, 4, seed=7) as loader:
        before = take(loader, 1)
        state = loader.state()
        with pytest.raises(TrainingError, match=message):
            loader.restore({**state, **changes})
        with Loader(shards_of(COUNTS), 16, 4, seed=7) as other:
            assert same(before + take(loader, 1), take(other, 2))  # and nothing has changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": 0}, "at least 1 row of 1 to"),
        ({"positions": 2**40}, "at least 1 row of 1 to"),
        ({"rows_per_step": 0}, "at least 1 row"),
        ({"seed": -1}, "A seed is"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Loader(shards_of(COUNTS), **{"positions": 16, "rows_per_step": 2, **arguments})


@pytest.mark.parametrize("arguments", [(2, 2), (0, 3), (-1, 2), (0, 1, 0)])
def test_rows_that_cannot_be_dealt_are_refused(arguments: tuple[int, ...]) -> None:
    with Loader(shards_of(COUNTS), 16, 4) as loader, pytest.raises(TrainingError, match="cannot be dealt"):
        loader.next(*arguments)


def test_nothing_to_load_is_refused() -> None:
    empty = shards_of([])
    for make in (lambda: Loader(empty, 16, 1), lambda: validation_rows(empty, 16)):
        with pytest.raises(DataError, match="hold no document"):
            make()
    with pytest.raises(DataError, match="give a source a weight"):
        Loader(shards_of(COUNTS, weights=np.zeros(1)), 16, 1)
    with (
        Loader(shards_of([4], weights=np.array([1e-300])), 16, 1) as loader,
        pytest.raises(DataError, match="weights of the sources are so small"),
    ):
        loader.next()


def test_damaged_tokens_surface_in_next_and_leave_the_loader_where_it_was() -> None:
    shards = shards_of([30] * 40)  # the last tokens are beyond the vocabulary
    places = []

    def drain(loader: Loader) -> None:
        for _ in range(loader.epoch_rows()):
            places.append(loader.state())
            loader.next()

    with Loader(shards, 29, 1) as loader:
        with pytest.raises(DataError, match="damaged: they hold the token 1"):
            drain(loader)
        assert loader.state() == places[-1]
        with pytest.raises(DataError, match="damaged"):
            loader.next()


def test_validation_rows_are_the_same_on_every_call() -> None:
    shards = shards_of(COUNTS, weights=np.zeros(1))
    rows = validation_rows(shards, 16)
    assert same([rows], [validation_rows(shards, 16)])
    assert rows.n_targets == sum(COUNTS) - len(COUNTS)
    few = validation_rows(shards, 16, 3)
    assert few.n_rows == 3
    assert np.array_equal(few.tokens, rows.tokens[:3])
