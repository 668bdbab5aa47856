"""Embeddings: the mean of the hidden states after the last norm, of length 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scheduled import WAIT_S, Kept

import toys
from ingle.backends.base import Rows
from ingle.backends.reference import ReferenceBackend, normed
from ingle.engine.generate import Request
from ingle.engine.model import load
from ingle.engine.sampling import SamplingParams
from ingle.engine.scheduler import Scheduler
from ingle.models.checkpoint import open_checkpoint

PROMPTS = [[1, 2, 3], [9], list(range(200)), [1, 2, 3]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf")


def by_definition(path: Path, prompt: list[int]) -> Any:
    """All rows at once through the reference backend's verbs."""
    checkpoint = open_checkpoint(path)
    spec = checkpoint.spec
    backend = ReferenceBackend(spec)
    cache = backend.new_cache(1, len(prompt), "f32")
    state = backend.embed(backend.load_embedding(checkpoint.embedding()), Rows.of_slot(0, 0, prompt), cache)
    for index, layer in enumerate(spec.schedule):
        backend.attention(backend.load_attention(checkpoint.attention(layer)), state, index)
        backend.feed_forward(backend.load_feed_forward(checkpoint.feed_forward(layer)), state, index)
    state.absorb()
    norm = checkpoint.output()["norm"].float32()
    mean = normed(state.x, norm, None, spec.norm, spec.norm_eps).mean(axis=0)
    checkpoint.close()
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_embeddings_are_those_of_the_definition(toy: Path, backend: str) -> None:
    with (
        load(toy, backend=backend, threads=1, n_slots=2, kv_type="f32") as model,
        Scheduler(model) as scheduler,
    ):
        scheduler._slots.chunk = 64  # several steps for the long one
        kept = Kept()
        scheduler.submit(Request([5, 6], SamplingParams(temperature=0), max_tokens=30), kept)
        rows = scheduler.embed(PROMPTS).result(WAIT_S)
        assert rows.shape == (4, model.spec.n_embd)
        assert rows.dtype == np.float32
        for row, prompt in zip(rows, PROMPTS, strict=True):
            np.testing.assert_allclose(row, by_definition(toy, prompt), atol=2e-5)
            assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
        # The answer beside them is what it is alone.
        assert kept.wait().ids == [t.token_id for t in model.generate([5, 6], temperature=0.0, max_tokens=30)]
        assert scheduler.load.n_answered == 2


def test_no_prompts_have_no_embeddings(toy: Path) -> None:
    with load(toy, threads=1) as model, Scheduler(model) as scheduler:
        assert scheduler.embed([]).result(WAIT_S).shape == (0, model.spec.n_embd)
        assert scheduler.load.n_answered == 0


def test_a_cancelled_future_leaves_the_queue(toy: Path) -> None:
    with load(toy, threads=1, n_slots=1) as model, Scheduler(model) as scheduler:
        with model.exclusive():  # no slot is free
            cancelled = scheduler.embed([[1], [2], [3]])
            assert cancelled.cancel()
            wanted = scheduler.embed([[4]])
        assert wanted.result(WAIT_S).shape == (1, model.spec.n_embd)
        assert scheduler.load.n_queued == 0


def test_closing_tells_who_waits(toy: Path) -> None:
    from ingle.errors import ClosedError

    with load(toy, threads=1, n_slots=1) as model:
        scheduler = Scheduler(model)
        with model.exclusive():
            future = scheduler.embed([[1], [2]])
            scheduler.close(0.0)
        assert isinstance(future.exception(WAIT_S), ClosedError)


def test_an_error_fails_all_of_a_request(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(toy, threads=1, n_slots=1) as model, Scheduler(model) as scheduler:
        scheduler.embed([[1]]).result(WAIT_S)
        assert scheduler._hidden is not None
        with monkeypatch.context() as patch:
            patch.setattr(scheduler._hidden, "forward", None)
            error = scheduler.embed([[1], [2]]).exception(WAIT_S)
            assert "unexpected error" in str(error)
        assert scheduler.embed([[1]]).result(WAIT_S).shape[0] == 1
