"""How answers of a scheduler end too early: cancelled, failed, closed, refused."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from scheduled import N_VOCAB, SCRIPT, WAIT_S, Kept, expected, greedy, held, serving

import toys
from ingle.engine.generate import Answer, Request
from ingle.engine.sampling import SamplingParams
from ingle.engine.scheduler import Scheduler
from ingle.engine.token import Token
from ingle.errors import BackendError, ClosedError, ContextError, IngleError, UsageError


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf")


def test_a_cancelled_answer_ends_and_its_slot_goes_to_the_next(toy: Path) -> None:
    with held(toy, 1) as (scheduler, _, gate, _first):
        next_one = Kept()
        running, waiting = Kept(), Kept()
        jobs = [scheduler.submit(greedy([5], 1000), running), scheduler.submit(greedy([6], 1000), waiting)]
        jobs[1].cancel()
        seen = threading.Event()
        running.on_token = lambda token: (Kept.on_token(running, token), jobs[0].cancel(), seen.set())  # type: ignore[assignment]
        scheduler.submit(greedy([7], 2), next_one)
        gate.open.set()
        assert running.wait().ids == expected([5], 1)
        assert running.answer == Answer(running.text, tuple(running.ids), None)
        assert running.error is None
        assert waiting.wait().ends == [(None, None)]
        assert next_one.wait().ids == expected([7], 2)


def test_what_fails_ends_alone(toy: Path) -> None:
    class Bad(Kept):
        def on_token(self, token: Token) -> None:
            super().on_token(token)
            if len(self.tokens) == 2:
                raise RuntimeError("the wire was cut")

    class Worse(Kept):
        def on_end(self, answer: Answer | None, error: IngleError | None) -> None:
            super().on_end(answer, error)
            raise RuntimeError("and that too")

    def interrupt(done: int, total: int) -> None:
        raise UsageError("no more of this prompt")

    with held(toy, 4) as (scheduler, _, gate, first):
        bad, worse, refused, good = Bad(), Worse(), Kept(), Kept()
        scheduler.submit(greedy([5], 9), bad)
        scheduler.submit(greedy([6], 2), worse)
        scheduler.submit(greedy([7], 2, on_prefill=interrupt), refused)
        scheduler.submit(greedy([8], 9), good)
        gate.open.set()
        assert isinstance(bad.error, BackendError)
        assert "the wire was cut" in str(bad.error)
        assert bad.answer == Answer("".join(t.text for t in bad.tokens), tuple(bad.ids), None)
        assert worse.wait().ids == expected([6], 2)
        assert isinstance(refused.error, UsageError)
        assert refused.answer == Answer("", (), None)
        assert good.wait().ids == expected([8], 9)
        assert first.error is None


def test_logits_that_are_not_finite_end_one_answer(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = toys.ScriptedBackend.logits

    def damaged(self: toys.ScriptedBackend, output: object, state: toys.ScriptedState, wanted: object) -> object:
        found = logits(self, output, state, wanted)  # type: ignore[arg-type]
        for i, row in enumerate(wanted):  # type: ignore[call-overload]
            slot = state.rows.slots[row]
            if state.cache.tokens[slot, 0] == 13 and state.rows.positions[row] == 2:
                found[i, 5] = np.nan
        return found

    monkeypatch.setattr(toys.ScriptedBackend, "logits", damaged)
    with serving(toy) as (scheduler, _, _):
        unlucky, other = Kept(), Kept()
        scheduler.submit(greedy([13], 9), unlucky)
        scheduler.submit(greedy([14], 9), other)
        assert "not finite" in str(unlucky.error)
        assert unlucky.ids == expected([13], 2)
        assert other.wait().ids == expected([14], 9)


def test_an_error_of_the_backend_ends_all_that_run_and_no_more(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = toys.ScriptedBackend.embed
    failures = iter([BackendError("the device is gone"), MemoryError("of the other kind")])

    def failing(self: toys.ScriptedBackend, embedding: object, rows: object, cache: object) -> object:
        if len(self.calls) in (1, 2):
            self.calls.append(rows)  # type: ignore[arg-type]
            raise next(failures)
        return embed(self, embedding, rows, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(toys.ScriptedBackend, "embed", failing)
    with held(toy, 2) as (scheduler, _, gate, first):
        second, third, fourth = Kept(), Kept(), Kept()
        scheduler.submit(greedy([5], 2), second)
        scheduler.submit(greedy([6], 2), third)
        scheduler.submit(greedy([7], 2), fourth)
        gate.open.set()
        assert str(first.error) == str(second.error) == "the device is gone"
        assert "MemoryError: of the other kind" in str(third.error)
        assert isinstance(fourth.error, BackendError)
        after = Kept()
        scheduler.submit(greedy([5], 2), after)
        assert after.wait().ids == expected([5], 2)


def test_closing_lets_end_what_was_taken(toy: Path) -> None:
    with held(toy, 1) as (scheduler, _, gate, first):
        waiting = Kept()
        scheduler.submit(greedy([5], 4), waiting)
        closing = threading.Thread(target=scheduler.close)
        closing.start()
        while not scheduler.closed:
            pass
        with pytest.raises(ClosedError):
            scheduler.submit(greedy([1]), Kept())
        with pytest.raises(ClosedError):
            scheduler.embed([[1]])
        gate.open.set()
        closing.join(WAIT_S)
        assert first.wait().ids == expected([250, 251], 3)
        assert waiting.wait().ids == expected([5], 4)


def test_closing_cuts_off_what_takes_too_long(toy: Path) -> None:
    with held(toy, 1) as (scheduler, _, gate, first):
        waiting = Kept()
        scheduler.submit(greedy([5], 4), waiting)
        closing = threading.Thread(target=scheduler.close, args=(0.0,))
        closing.start()
        while not scheduler._cut:
            pass
        gate.open.set()
        closing.join(WAIT_S)
        assert isinstance(first.error, ClosedError)
        assert first.answer == Answer(first.text, tuple(first.ids), None)
        assert first.ids == expected([250, 251], 1)
        assert isinstance(waiting.error, ClosedError)
        assert waiting.answer is None
        scheduler.close()  # once more does nothing


def test_a_closed_model_ends_its_answers(toy: Path) -> None:
    with serving(toy) as (scheduler, _, model):
        kept = Kept()
        kept.on_token = lambda token: model.close()  # type: ignore[method-assign]
        model_parts = model._open_parts()
        scheduler.submit(greedy([5], 50), kept)
        assert "closed" in str(kept.error)
        model._parts = model_parts


def test_slots_that_others_have_are_waited_for(toy: Path) -> None:
    with serving(toy, n_slots=1) as (scheduler, _, model):
        other = model.generate([9], max_tokens=2)
        next(other)
        kept = Kept()
        scheduler.submit(greedy([5], 2), kept)
        assert not kept._ended.wait(0.05)
        other.close()
        assert kept.wait().ids == expected([5], 2)


def test_what_cannot_be_answered_is_refused_at_once(toy: Path) -> None:
    with serving(toy) as (scheduler, _, _):
        for request, error in (
            (greedy([]), UsageError),
            (greedy([1], 0), UsageError),
            (greedy([1] * 300), ContextError),
            (greedy([1], n_top=-1), UsageError),
            (Request([1], SamplingParams(logit_bias={N_VOCAB: 1.0})), UsageError),
        ):
            with pytest.raises(error):
                scheduler.submit(request, Kept())
        with pytest.raises(ContextError):
            scheduler.embed([[1], [1] * 300])
        assert scheduler.load.n_queued == 0
    with pytest.raises(UsageError, match="max_queue"):
        Scheduler(toys.scripted_model(toy, SCRIPT)[0], max_queue=0)
