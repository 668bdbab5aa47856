"""Answers held to grammars, many at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scheduled import Kept

import toys
from ingle.engine.generate import Request
from ingle.engine.model import load
from ingle.engine.sampling import SamplingParams
from ingle.engine.scheduler import Scheduler
from ingle.errors import GrammarError
from ingle.text.grammar import Grammar, Matcher

SCHEMA = {
    "type": "object",
    "properties": {"a_long_name_that_is_forced": {"enum": ["yes", "no"]}, "n": {"type": "boolean"}},
    "required": ["a_long_name_that_is_forced", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_generate_and_forced_tokens_skip_the_model(toy: Path, temperature: float) -> None:
    grammar = Grammar.json_schema(SCHEMA)
    with load(toy, backend="reference", n_slots=4) as model, Scheduler(model) as scheduler:
        answers = []
        for seed in range(6):
            params = SamplingParams(temperature=temperature, seed=seed, top_k=0, top_p=1.0, min_p=0.0)
            kept = Kept()
            scheduler.submit(Request([seed, 1, 2], params, max_tokens=200, grammar=grammar), kept)
            answers.append(kept)
        for kept in answers:
            kept.wait()
        for seed, kept in enumerate(answers):
            there = list(
                model.generate(
                    [seed, 1, 2], max_tokens=200, grammar=grammar, temperature=temperature, seed=seed, top_k=0,
                    top_p=1.0, min_p=0.0,
                )
            )  # fmt: skip
            assert kept.text == "".join(token.text for token in there)
            assert kept.ids == [token.token_id for token in there]
            assert [t.logprob for t in kept.tokens] == pytest.approx([t.logprob for t in there], abs=1e-3)
            assert set(json.loads(kept.text)) == set(SCHEMA["required"])
            assert kept.tokens[-1].finish_reason == "eos"
        load_ = scheduler.load
        assert load_.steps < load_.completion_tokens / 6  # most of it is names and marks


def test_max_tokens_cuts_what_is_forced(toy: Path) -> None:
    grammar = Grammar.regex("abcdefghij(k|l)")
    with load(toy, threads=1, n_slots=2, context=8) as model, Scheduler(model) as scheduler:
        for max_tokens, n in ((1, 1), (3, 3), (None, 6)):  # 6: what the context has room for
            kept = Kept()
            scheduler.submit(
                Request([1, 2, 3], SamplingParams(temperature=0), max_tokens=max_tokens, grammar=grammar), kept
            )
            assert kept.wait().text == "abcdefghij"[:n]
            assert kept.tokens[-1].finish_reason == "length"
            assert kept.error is None


def test_a_stop_string_in_what_is_forced(toy: Path) -> None:
    grammar = Grammar.regex("abcdefghij(k|l)")
    with load(toy, threads=1, n_slots=2) as model, Scheduler(model) as scheduler:
        kept = Kept()
        scheduler.submit(Request([1], SamplingParams(temperature=0), stop=("ef",), grammar=grammar), kept)
        assert kept.wait().text == "abcd"
        assert kept.tokens[-1].finish_reason == "stop"
        # What was computed beyond the stop is in the cache, and is used.
        after = Kept()
        ids = model.tokenizer.encode("abcdefghij")
        scheduler.submit(Request([1, *ids], SamplingParams(temperature=0), max_tokens=3), after)
        after.wait()
        assert after.ids == [t.token_id for t in model.generate([1, *ids], temperature=0.0, max_tokens=3)]


def test_a_grammar_that_fails_ends_one_answer(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = Matcher.mask
    calls = 0

    def failing(self: Matcher) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise GrammarError("The grammar cannot be followed; simplify it.")
        return mask(self)

    with load(toy, threads=1, n_slots=2) as model, Scheduler(model) as scheduler:
        plain, held = Kept(), Kept()
        with monkeypatch.context() as patch:
            patch.setattr(Matcher, "mask", failing)
            request = Request([1], SamplingParams(temperature=0), max_tokens=9, grammar=Grammar.regex("[a-z]+"))
            scheduler.submit(request, held)
            scheduler.submit(Request([2], SamplingParams(temperature=0), max_tokens=9), plain)
            assert isinstance(held.error, GrammarError)
        assert held.answer is not None
        assert held.answer.problem.startswith("The grammar cannot be followed")
        assert len(held.ids) == 2
        assert len(plain.wait().ids) == 9
        assert plain.error is None
