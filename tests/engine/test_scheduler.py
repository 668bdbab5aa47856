"""Many answers at once, with a scripted backend whose next token depends on every token in the slot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduled import END, GREEDY, LONG, SCRIPT, Gate, Kept, expected, greedy, held, serving

import toys
from ingle.engine import scheduler as module
from ingle.engine.generate import Answer, Request
from ingle.engine.model import load
from ingle.engine.sampling import SamplingParams
from ingle.engine.scheduler import Job, Scheduler
from ingle.engine.token import Token
from ingle.errors import BusyError, IngleError


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf")


def test_answers_are_those_of_generate(toy: Path) -> None:
    rng = np.random.default_rng(2)
    prompts = [[*LONG[: int(rng.integers(1, 150))], int(rng.integers(0, 256))] for _ in range(40)]
    with serving(toy, n_slots=4) as (scheduler, _, model):
        answers = [Kept() for _ in prompts]
        for index, (prompt, kept) in enumerate(zip(prompts, answers, strict=True)):
            scheduler.submit(greedy(prompt, 1 + index % 17), kept, user=str(index % 3))
        for kept in answers:
            kept.wait()
        for index, (prompt, kept) in enumerate(zip(prompts, answers, strict=True)):
            generation = model.generate(prompt, max_tokens=1 + index % 17, temperature=0.0)
            assert [(t.text, t.token_id, t.index, t.finish_reason) for t in kept.tokens] == [
                (t.text, t.token_id, t.index, t.finish_reason) for t in generation
            ]
            assert kept.answer == Answer(kept.text, tuple(kept.ids), "length")
            assert kept.error is None
        load = scheduler.load
        assert (load.n_answered, load.n_running, load.n_queued) == (40, 0, 0)
        assert load.completion_tokens == sum(len(kept.tokens) for kept in answers)
        assert load.prompt_tokens == sum(map(len, prompts))
        assert load.cached_tokens == sum(kept.tokens[-1].stats.cached_tokens for kept in answers) > 0


def test_all_tokens_of_a_step_are_drawn_before_any_is_told(toy: Path) -> None:
    """A listener that wakes a reader must not have it compete with what is still to be drawn."""
    seen: list[tuple[int, list[int]]] = []

    class Looking(Kept):
        def on_token(self, token: Token) -> None:
            super().on_token(token)
            seen.append((token.index, [job.stats.n_tokens for job in jobs]))

    with held(toy, n_slots=3) as (scheduler, _, gate, first):
        jobs: list[Job] = []
        looking = [Looking(), Looking()]
        jobs += [scheduler.submit(greedy([index, 7], 4), kept) for index, kept in enumerate(looking)]
        gate.open.set()
        for kept in (*looking, first):
            kept.wait()
    assert seen == [(index, [index + 1] * 2) for index in range(4) for _ in looking]


def test_the_models_own_end_and_stop_strings(toy: Path) -> None:
    letters = toys.byte_letters()
    text = [toys.vocabulary().index(letters[byte]) for byte in b"one two"]
    with serving(toy, lambda tokens: [*text, END, END][len(tokens) - 1]) as (scheduler, _, _):
        kept, stopped = Kept(), Kept()
        scheduler.submit(greedy([1], 50), kept)
        scheduler.submit(greedy([2], 50, stop=("e t",)), stopped)
        assert kept.answer == Answer("one two", tuple(text), "eos")
        assert (stopped.answer or Answer("", (), None)).text == stopped.text == "on"
        assert stopped.tokens[-1].finish_reason == "stop"


def test_requests_join_and_leave_between_steps(toy: Path) -> None:
    with held(toy, 3) as (scheduler, backend, gate, first):
        second, third = Kept(), Kept()
        scheduler.submit(greedy([7], 5), second)
        scheduler.submit(greedy([8, 9, 10], 2), third)
        gate.open.set()
        for kept, prompt, n in ((first, [250, 251], 3), (second, [7], 5), (third, [8, 9, 10], 2)):
            assert kept.wait().ids == expected(prompt, n)
        # first: 2 rows of prompt; then its row, and the prompts of the others; and so on, until each has its tokens.
        assert [len(rows) for rows in backend.calls] == [2, 1 + 1 + 3, 1 + 1 + 1, 1, 1, 1]


def test_no_answer_waits_for_more_than_a_chunk(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.engine.step.LEAST_ROWS", 16)
    monkeypatch.setattr("ingle.engine.step.MOST_ROWS", 32)
    with held(toy, 3) as (scheduler, backend, gate, first):
        answers = [Kept(), Kept()]
        for index, kept in enumerate(answers):
            scheduler.submit(greedy([index, *LONG], 3), kept)
        gate.open.set()
        first.wait()
        for index, kept in enumerate(answers):
            assert kept.wait().ids == expected([index, *LONG], 3)
        beside = [rows for rows in backend.calls[1:] if 0 in rows.slots and len(rows) > 3]
        assert beside
        assert all(len(rows) <= 32 + 1 for rows in beside)  # its own row
        assert sum(map(len, backend.calls)) == 2 + 2 + 2 * (201 + 2)  # and nothing twice


def test_a_short_prompt_does_not_wait_for_a_long_one(toy: Path) -> None:
    with held(toy, 3) as (scheduler, _, gate, _first):
        order: list[str] = []
        listeners = {name: _Named(name, order) for name in ("long", "short")}
        long = list(range(100)) * 2
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr("ingle.engine.step.MOST_ROWS", 32)
            scheduler._pace = module.Pace(32)
            scheduler._slots.chunk = 32
            scheduler.submit(greedy(long, 1), listeners["long"])
            scheduler.submit(greedy([9, 9, 9], 1), listeners["short"])
            gate.open.set()
            for listener in listeners.values():
                listener.wait()
        assert order == ["short", "long"]


class _Named(Kept):
    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self.name, self.order = name, order

    def on_end(self, answer: Answer | None, error: IngleError | None) -> None:
        self.order.append(self.name)
        super().on_end(answer, error)


def test_a_beginning_in_common_is_computed_once(toy: Path) -> None:
    with held(toy, 4) as (scheduler, backend, gate, first):
        answers = [Kept() for _ in range(3)]
        for index, kept in enumerate(answers):
            scheduler.submit(greedy([*LONG[:100], 200 + index, 5], 2), kept)
        gate.open.set()
        first.wait()
        for index, kept in enumerate(answers):
            assert kept.wait().ids == expected([*LONG[:100], 200 + index, 5], 2)
        # One computes the 100; the others wait for that, and compute what is their own.
        assert [kept.tokens[0].stats.cached_tokens for kept in answers] == [0, 100, 100]
        assert sum(map(len, backend.calls)) == (2 + 2) + (102 + 1) + 2 * (2 + 1)


def test_who_waits_for_a_beginning_holds_nobody_up(toy: Path) -> None:
    with held(toy, 4) as (scheduler, backend, gate, _first):
        answers = [Kept() for _ in range(3)]
        for prompt, kept in zip(([*LONG[:100], 1], [*LONG[:100], 2], [3, 3]), answers, strict=True):
            scheduler.submit(greedy(prompt, 1), kept)
        gate.open.set()
        for kept in answers:
            kept.wait()
        # The third is computed beside the first, in the step after the one that was held up.
        assert len(backend.calls[1]) == 1 + 101 + 2


def test_with_fewer_slots_than_requests_the_others_wait(toy: Path) -> None:
    with held(toy, 1) as (scheduler, backend, gate, first):
        answers = [Kept() for _ in range(4)]
        jobs = [scheduler.submit(greedy([index], 2), kept) for index, kept in enumerate(answers)]
        assert scheduler.load.n_queued == 4
        assert all(job.queue_s is None for job in jobs)
        gate.open.set()
        for index, kept in enumerate(answers):
            assert kept.wait().ids == expected([index], 2)
        assert first.wait().ids == expected([250, 251], 3)
        assert all(len(rows.slots) <= 2 for rows in backend.calls)
        assert all(job.queue_s is not None and job.queue_s > 0 for job in jobs)


def test_users_take_turns(toy: Path) -> None:
    with held(toy, 1) as (scheduler, _, gate, _first):
        order: list[str] = []
        listeners = []
        for user, n in (("greedy", 4), ("modest", 2), ("late", 1)):
            for index in range(n):
                listener = _Named(f"{user} {index}", order)
                listeners.append(listener)
                scheduler.submit(greedy([len(listeners)], 1), listener, user=user)
        gate.open.set()
        for listener in listeners:
            listener.wait()
        assert order == ["greedy 0", "modest 0", "late 0", "greedy 1", "modest 1", "greedy 2", "greedy 3"]


def test_a_full_queue_says_when_to_come_again(toy: Path) -> None:
    with held(toy, 1, max_queue=2) as (scheduler, _, gate, _first):
        answers = [Kept(), Kept()]
        for kept in answers:
            scheduler.submit(greedy([1], 1), kept)
        refused = Kept()
        with pytest.raises(BusyError, match=r"2 requests are waiting .* \d+ s\.") as caught:
            scheduler.submit(greedy([1], 1), refused)
        assert 1 <= caught.value.retry_after_s <= 600
        with pytest.raises(BusyError):
            scheduler.embed([[1]])
        assert scheduler.load.n_refused == 2
        gate.open.set()
        for kept in answers:
            assert kept.error is None
        again = Kept()
        scheduler.submit(greedy([1], 1), again)
        assert again.error is None
        assert not refused.ends


def test_who_comes_while_slots_are_free_does_not_count_as_waiting(toy: Path) -> None:
    with held(toy, 3, max_queue=1) as (scheduler, _, gate, _first):  # two slots are free, until the step ends
        answers = [Kept(), Kept(), Kept()]
        for index, kept in enumerate(answers):
            scheduler.submit(greedy([index], 1), kept)
        with pytest.raises(BusyError):
            scheduler.submit(greedy([1], 1), Kept())
        gate.open.set()
        for kept in answers:
            assert kept.error is None


def test_an_answer_fills_the_context_and_no_more(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT, n_slots=2, context=16)
    with Scheduler(model) as scheduler:
        kept = Kept()
        scheduler.submit(Request(LONG[:10], GREEDY), kept)
        assert kept.wait().ids == expected(LONG[:10], 7)
        assert kept.tokens[-1].finish_reason == "length"


@settings(max_examples=40)
@given(data=st.data())
def test_any_schedule_gives_each_its_answer(toy: Path, data: st.DataObject) -> None:
    """Any number of slots, any chunks, any beginnings in common, cancelled or not: what came is right and complete."""
    n_slots = data.draw(st.integers(1, 4))
    chunk = data.draw(st.sampled_from([3, 16, 64]))
    requests = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 2),  # which beginning
                st.integers(0, 60),  # so much of it
                st.lists(st.integers(0, 255), min_size=1, max_size=40),
                st.integers(1, 12),
                st.sampled_from(["a", "b", "c"]),
                st.sampled_from([None, None, None, 0, 1, 3]),  # cancelled after so many tokens
                st.booleans(),
            ),
            min_size=1,
            max_size=12,
        )
    )
    gate = Gate(SCRIPT)
    model, backend = toys.scripted_model(toy, gate, n_slots=n_slots)
    slots = model._open_parts()[1]
    slots.chunk = chunk
    scheduler = Scheduler(model)
    scheduler._pace = module.Pace(chunk)
    answers: list[tuple[Kept, list[int], int, int | None]] = []
    try:
        for which, n, rest, max_tokens, user, cut, exact in requests:
            prompt = [which, *LONG[which * 60 : which * 60 + n], *rest]
            kept = Kept()
            job = scheduler.submit(greedy(prompt, max_tokens, exact=exact), kept, user=user)
            if cut == 0:
                job.cancel()
            elif cut:
                kept.on_token = _cancelling(kept, job.cancel, cut)  # type: ignore[method-assign]
            answers.append((kept, prompt, max_tokens, cut))
        gate.open.set()
        for kept, prompt, max_tokens, cut in answers:
            kept.wait()
            n = max_tokens if cut is None else min(max_tokens, cut)
            if cut != 0:
                assert kept.ids == expected(prompt, n)
            assert kept.error is None
            assert len(kept.ends) == 1
        assert all(len(rows) <= chunk + n_slots for rows in backend.calls)
    finally:
        gate.open.set()
        scheduler.close()
    assert slots.n_free == n_slots


def _cancelling(kept: Kept, cancel: Callable[[], None], after: int) -> Callable[[Token], None]:
    def on_token(token: Token) -> None:
        Kept.on_token(kept, token)
        if len(kept.tokens) == after:
            cancel()

    return on_token


def test_alone_and_with_a_seed_it_is_what_generate_gives(toy: Path) -> None:
    """With a real model: the same tokens and the same logprobs, bit for bit, with and without a cache."""
    with (
        load(toy, threads=1, n_slots=3) as model,
        load(toy, threads=1, n_slots=3) as same,
        Scheduler(model) as scheduler,
    ):
        for _ in range(2):
            for seed in (0, 1):
                params = SamplingParams(temperature=1.0, seed=seed)
                kept = Kept()
                job = scheduler.submit(Request(LONG, params, max_tokens=20, exact=True, n_top=3), kept)
                assert job.seed == seed
                there = list(same.generate(LONG, max_tokens=20, seed=seed, temperature=1.0))
                assert [(t.token_id, t.logprob, t.text) for t in kept.wait().tokens] == [
                    (t.token_id, t.logprob, t.text) for t in there
                ]
                assert all(len(t.top) == 3 for t in kept.tokens)


def test_many_answers_of_a_real_model_are_those_of_generate(toy: Path) -> None:
    # The reference's rows hardly depend on each other; the native ones do by their roundings, and toys are undecided.
    with load(toy, backend="reference", n_slots=4) as model, Scheduler(model) as scheduler:
        prompts = [LONG[index : index + 5 + 9 * index] for index in range(12)]
        answers = [Kept() for _ in prompts]
        for prompt, kept in zip(prompts, answers, strict=True):
            scheduler.submit(greedy(prompt, 25), kept)
        for kept in answers:
            kept.wait()
        for prompt, kept in zip(prompts, answers, strict=True):
            assert kept.ids == [t.token_id for t in model.generate(prompt, max_tokens=25, temperature=0.0)]
            assert kept.tokens[-1].stats.n_tokens == len(kept.tokens)
