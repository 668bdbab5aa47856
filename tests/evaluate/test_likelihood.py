"""Likelihoods of many requests together are those of each request alone, and nothing is computed twice."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from ingle import load
from ingle.engine.model import Model
from ingle.errors import BackendError, ContextError, UsageError
from ingle.evaluate.likelihood import Likelihood, log_sum_exp, rolling, rolling_windows, score

Request = tuple[list[int], list[int]]


def alone(model: Model, request: Request) -> Likelihood:
    """The definition: all logits of one sequence, computed anew."""
    context, continuation = request
    ids = [*context, *continuation][-(model.context + 1) :]
    logits = model.logits(ids[:-1]).astype(np.float64)[-len(continuation) :]
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = logprobs[np.arange(len(continuation)), continuation]
    return Likelihood(float(chosen.sum()), bool((logits.argmax(axis=1) == continuation).all()), len(continuation))


def assert_close(found: Sequence[Likelihood], expected: Sequence[Likelihood]) -> None:
    assert [(one.is_greedy, one.n_tokens) for one in found] == [(one.is_greedy, one.n_tokens) for one in expected]
    np.testing.assert_allclose([one.logprob for one in found], [one.logprob for one in expected], atol=2e-5)


def questions(n: int, shared: Sequence[int] = (), seed: int = 0) -> list[Request]:
    """Questions with four answers each, after tokens that they all begin with."""
    rng = random.Random(seed)
    requests = []
    for i in range(n):
        question = [*shared, i, *(rng.randrange(200) for _ in range(rng.randrange(3, 9)))]
        requests += [(question, [j, *(rng.randrange(200) for _ in range(rng.randrange(4)))]) for j in range(4)]
    return requests


def test_many_are_as_each_alone(model: Model) -> None:
    requests = [*questions(5, shared=range(30)), *questions(4, seed=1)]
    assert_close(score(model, requests), [alone(model, request) for request in requests])


def test_a_continuation_of_the_most_likely_tokens_is_greedy(model: Model) -> None:
    context = [5, 6, 7]
    said = [token.token_id for token in model.generate(context, temperature=0, max_tokens=6, ignore_eos=True)]
    other = [*said[:-1], (said[-1] + 1) % 200]
    found = score(model, [(context, said), (context, other), ([*context, *said[:2]], said[2:])])
    assert [one.is_greedy for one in found] == [True, False, True]


small = st.lists(st.integers(0, 2), min_size=1, max_size=9)


@settings(max_examples=60)
@given(st.lists(st.tuples(small, small), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 30))
def test_any_requests_in_any_number_of_slots(
    path: Path, requests: list[tuple[list[int], list[int]]], n_slots: int, n_rows: int
) -> None:
    """Three tokens only: contexts are prefixes of each other, of continuations, and the same. The scripted backend's
    next token follows from all that stands in the slot, so that a wrong position anywhere changes the result. A request
    takes one call or more."""

    def next_token(seen: list[int]) -> int:
        return hash(tuple(seen)) % 3

    scripted, backend = toys.scripted_model(path, next_token, n_slots=n_slots, context=12)
    with scripted, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingle.evaluate.packing.chunk_rows", lambda spec: n_rows)
        found = score(scripted, requests)
    assert max(map(len, backend.calls)) <= n_rows
    hit = 20 - math.log(math.exp(20) + scripted.spec.n_vocab - 1)
    for (context, continuation), one in zip(requests, found, strict=True):
        ids = [*context, *continuation][-13:]
        right = [next_token(ids[:i]) == ids[i] for i in range(len(ids) - len(continuation), len(ids))]
        assert one.is_greedy == all(right)
        assert one.n_tokens == len(continuation)
        assert one.logprob == pytest.approx(hit * len(right) - 20 * right.count(False), abs=1e-4)


@pytest.mark.parametrize("n_slots", [1, 4, 16])
def test_what_is_shared_is_computed_once(path: Path, n_slots: int) -> None:
    requests = questions(20, shared=range(40))
    random.Random(1).shuffle(requests)
    scripted, backend = toys.scripted_model(path, lambda seen: 0, n_slots=n_slots)
    with scripted:
        score(scripted, requests)
    texts = [[*context, *continuation][:-1] for context, continuation in requests]
    beginnings = {tuple(text[:n]) for text in texts for n in range(1, len(text) + 1)}
    assert sum(len(rows) for rows in backend.calls) == len(beginnings)


def test_slots_compute_together(path: Path) -> None:
    scripted, backend = toys.scripted_model(path, lambda seen: 0, n_slots=8)
    with scripted:
        score(scripted, questions(8, shared=range(40)))
    assert max(len(set(rows.slots.tolist())) for rows in backend.calls) == 8
    assert len(backend.calls) <= 6  # the beginning; questions with their first answers; the other answers


def test_many_continuations_of_one_context_go_to_several_slots(path: Path) -> None:
    scripted, backend = toys.scripted_model(path, lambda seen: 0, n_slots=4)
    context = list(range(20))
    with scripted:
        score(scripted, [(context, [i, i]) for i in range(32)])
    assert len(backend.calls) <= 11
    assert sum(len(rows) for rows in backend.calls) <= 20 + 32 + 4  # each slot asks the context's last row once


def test_order_and_number_of_slots_change_nothing(path: Path, model: Model) -> None:
    requests = questions(12, shared=range(10))
    order = random.Random(2).sample(range(len(requests)), len(requests))
    found = score(model, requests)
    again = score(model, [requests[i] for i in order])
    assert_close(again, [found[i] for i in order])
    with load(path, backend="reference", kv_type="f32", n_slots=1) as single:
        assert_close(score(single, requests), found)


def test_the_native_backend_agrees(path: Path, model: Model) -> None:
    requests = questions(10, shared=range(10))
    with load(path, kv_type="f32", n_slots=5, threads=1) as native:
        found = score(native, requests)
    np.testing.assert_allclose([a.logprob for a in found], [b.logprob for b in score(model, requests)], atol=2e-3)


def test_a_context_that_is_too_long_loses_its_beginning(model: Model) -> None:
    rng = random.Random(3)
    ids = [rng.randrange(200) for _ in range(100)]
    requests = [(ids[:90], ids[90:]), (ids[:60], ids[60:66]), (ids[:1], ids[1:65]), (ids[:1], ids[1:64])]
    found = score(model, requests)
    assert_close(found, [alone(model, request) for request in requests])
    kept, shorter = score(model, [(ids[35:90], ids[90:]), (ids[36:90], ids[90:])])  # 64 rows: the last token is no row
    assert found[0].logprob == pytest.approx(kept.logprob, abs=1e-5)
    assert abs(found[0].logprob - shorter.logprob) > 1e-3


def test_nothing_to_score(model: Model) -> None:
    assert score(model, []) == []


def test_progress_ends_with_all_and_can_end_the_scoring(model: Model) -> None:
    told: list[tuple[int, int]] = []
    score(model, questions(6), on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (24, 24)
    assert told == sorted(told)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, questions(6), on_progress=stop)
    assert_close(score(model, questions(1)), [alone(model, request) for request in questions(1)])


def test_the_model_answers_as_before_afterwards(model: Model) -> None:
    def answer() -> list[int]:
        return [token.token_id for token in model.generate(list(range(20)), temperature=0, max_tokens=5)]

    before = answer()
    score(model, questions(3, shared=range(10, 30)))
    assert answer() == before


def test_what_cannot_be_scored_is_a_sentence(model: Model) -> None:
    with pytest.raises(UsageError, match="0 tokens of context"):
        score(model, [([], [1])])
    with pytest.raises(UsageError, match="0 of continuation"):
        score(model, [([1], [])])
    with pytest.raises(UsageError, match=r"tokens from -1 to 1; this model's are 0 to 268"):
        score(model, [([1], [-1])])
    with pytest.raises(UsageError, match=r"tokens from 1 to 269"):
        score(model, [([1], [269])])
    with pytest.raises(ContextError, match=r"65 tokens and the context holds 64"):
        score(model, [([1], [1] * 65)])
    generation = model.generate([1, 2, 3], max_tokens=5, ignore_eos=True)
    next(generation)
    with pytest.raises(BackendError, match="in use by answers that have not ended"):
        score(model, [([1], [2])])
    generation.close()


def test_log_sum_exp_is_exact_to_float32() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 8, (70, 9000)).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = np.log(np.exp(wide).sum(axis=1))
    sums, best = log_sum_exp(logits)
    np.testing.assert_allclose(sums, expected, atol=1e-6)
    np.testing.assert_array_equal(best, wide.argmax(axis=1))


def test_log_sum_exp_of_ties_and_extremes() -> None:
    logits = np.array([[3, 3, -np.inf], [1e30, 0, 0], [-200, -200, -200]], np.float32)
    sums, best = log_sum_exp(logits)
    np.testing.assert_allclose(sums, [3 + math.log(2), np.float32(1e30), math.log(3) - 200])
    assert best.tolist() == [0, 0, 0]


@pytest.mark.parametrize("values", [[1, np.nan], [np.inf, 1], [-np.inf, -np.inf]])
def test_logits_that_are_no_numbers_are_an_error(values: list[float]) -> None:
    with pytest.raises(BackendError, match="not finite"):
        log_sum_exp(np.array([values], np.float32))


def test_rolling_is_the_sum_over_its_windows(model: Model) -> None:
    rng = random.Random(4)
    documents = [[rng.randrange(200) for _ in range(n)] for n in (0, 1, 16, 17, 40)]
    found = rolling(model, documents, window=16)
    for document, one in zip(documents, found, strict=True):
        windows = rolling_windows(model, document, window=16)
        expected = [alone(model, (list(context), list(continuation))) for context, continuation in windows]
        assert one.logprob == pytest.approx(sum(part.logprob for part in expected), abs=1e-4)
        assert one.n_tokens == len(document)
        assert one.is_greedy == all(part.is_greedy for part in expected)


def test_windows_the_model_cannot_have(model: Model) -> None:
    for window in (0, 65):
        with pytest.raises(UsageError, match=r"expected 1 to 64"):
            rolling_windows(model, [1, 2], window=window)
