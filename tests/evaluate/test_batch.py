"""Greedy answers to many prompts together are those of each prompt alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from ingle import load
from ingle.engine.generate import Answer
from ingle.engine.model import Model
from ingle.errors import BackendError, ContextError, GrammarError, ModelFileError, UsageError
from ingle.evaluate import batch
from ingle.evaluate.batch import evaluate_slots, generate
from ingle.text.grammar import Grammar, Matcher
from story_teller import STORY_TELLER

END, B, C = (toys.vocabulary().index(text) for text in ("<|im_end|>", "b", "c"))


def alone(model: Model, prompt: list[int], **options: Any) -> Answer:
    tokens = list(model.generate(prompt, temperature=0, **options))
    ids = tuple(token.token_id for token in tokens if token.finish_reason != "eos")
    return Answer("".join(token.text for token in tokens), ids, tokens[-1].finish_reason)


def sometimes_ends(seen: list[int]) -> int:
    """Letters, and now and then the end, by all tokens before."""
    number = hash(tuple(seen)) % 17
    return END if number == 0 else 64 + number


prompts_of_few_tokens = st.lists(st.lists(st.integers(65, 68), min_size=1, max_size=12), min_size=1, max_size=10)


@settings(max_examples=60)
@given(
    prompts_of_few_tokens,
    st.integers(1, 4),
    st.integers(1, 30),
    st.one_of(st.none(), st.integers(1, 12)),
    st.booleans(),
)
def test_any_prompts_in_any_number_of_slots(
    path: Path, prompts: list[list[int]], n_slots: int, n_rows: int, max_tokens: int | None, stops: bool
) -> None:
    """The scripted backend's next token follows from all that stands in the slot. A prompt takes one call or more."""
    stop = ["ab", "c"] if stops else []
    scripted, backend = toys.scripted_model(path, sometimes_ends, n_slots=n_slots, context=20)
    with scripted, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingle.evaluate.packing.chunk_rows", lambda spec: n_rows)
        found = generate(scripted, prompts, max_tokens=max_tokens, stop=stop)
        assert max(map(len, backend.calls)) <= max(n_rows, n_slots)
        assert found == [alone(scripted, prompt, max_tokens=max_tokens, stop=stop) for prompt in prompts]


def test_a_trained_model_says_the_same_as_prompt_by_prompt() -> None:
    texts = [
        "Once upon a time",
        "Once upon a time there was a dog",
        "The sun",
        "One day, Tom",
        "One day, Lily said",
        "A",
    ]
    with load(STORY_TELLER, backend="reference", n_slots=3, context=64) as trained:
        prompts = [trained.tokenizer.encode(text) for text in texts]
        found = generate(trained, prompts, max_tokens=12, stop=["."])
        assert found == [alone(trained, prompt, max_tokens=12, stop=["."]) for prompt in prompts]


def test_the_native_backend_says_the_same_as_prompt_by_prompt(path: Path) -> None:
    rng = random.Random(0)
    prompts = [[rng.randrange(200) for _ in range(rng.randrange(1, 30))] for _ in range(12)]
    with load(path, kv_type="f32", n_slots=5, threads=1) as native:
        found = generate(native, prompts, max_tokens=8)
        assert found == [alone(native, prompt, max_tokens=8) for prompt in prompts]


def test_answers_decode_together_and_make_way(path: Path) -> None:
    """Twelve answers of four tokens in six slots: two rounds of a prompt's call and three further steps."""
    scripted, backend = toys.scripted_model(path, lambda seen: 70, n_slots=6)
    with scripted:
        generate(scripted, [[i, i, i] for i in range(12)], max_tokens=4)
    assert [len(set(rows.slots.tolist())) for rows in backend.calls] == [6] * 8


def test_a_shared_beginning_is_computed_once(path: Path) -> None:
    scripted, backend = toys.scripted_model(path, lambda seen: END, n_slots=4)
    with scripted:
        generate(scripted, [[*range(40), i] for i in range(10)], max_tokens=4)
    assert sum(len(rows) for rows in backend.calls) == 40 + 10


def test_the_same_prompt_twice(model: Model) -> None:
    first, second = generate(model, [[5, 6, 7]] * 2, max_tokens=5)
    assert first == second == alone(model, [5, 6, 7], max_tokens=5)


def test_answers_keep_to_their_grammars(model: Model) -> None:
    grammars = [
        Grammar.regex("(yes|no), [a-z]{3,9}"),
        None,
        Grammar.json_schema({"enum": ["alarm", "alarms", "music"]}),
        Grammar.regex("[0-9]{1,40}"),
    ]
    prompts = [[5, 6, 7], [5, 6, 8], [5, 6, 7], [9]]
    found = generate(model, prompts, max_tokens=16, grammars=grammars)
    for prompt, grammar, answer in zip(prompts, grammars, found, strict=True):
        assert answer == alone(model, prompt, max_tokens=16, grammar=grammar)
    assert found[2].text in ('"alarm"', '"alarms"', '"music"')


def test_what_must_come_is_computed_at_once(path: Path) -> None:
    """The texts differ in one place; before it and after it there is no choice."""
    scripted, backend = toys.scripted_model(path, lambda seen: C, n_slots=2)
    grammar = Grammar.regex("begin:[bcd], and so it ends")
    with scripted:
        answer, free = generate(scripted, [[70, 71], [72]], max_tokens=40, grammars=[grammar, grammar])
    assert answer.text == free.text == "begin:c, and so it ends"
    assert answer.finish_reason == "eos"
    assert len(backend.calls) == 1


def test_a_grammar_without_any_choice(path: Path) -> None:
    scripted, _ = toys.scripted_model(path, lambda seen: 70)
    with scripted:
        for stop, max_tokens, text, reason in (
            ([], 40, "only this", "eos"),
            ([" "], 40, "only", "stop"),
            ([], 3, "onl", "length"),
        ):
            grammars = [Grammar.regex("only this")]
            found = generate(scripted, [[70]], max_tokens=max_tokens, stop=stop, grammars=grammars)
            assert (found[0].text, found[0].finish_reason) == (text, reason)


def test_a_grammar_that_cannot_be_followed_ends_its_own_answer_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its beginning, between two tokens, or before the first that the model is asked for."""
    broken, mask, made = Grammar.regex("[a-z]{3,9}"), Matcher.mask, Grammar.matcher

    def too_complex(matcher: Matcher, n_before: int) -> Any:
        def find() -> Any:
            if len(said) == n_before:
                raise GrammarError("The grammar is too complex to follow.")
            said.append(0)
            return mask(matcher)

        said: list[int] = []
        return find

    for n_before in (0, 1, 3):

        def matcher(grammar: Grammar, tokenizer: Any, n_before: int = n_before, **options: Any) -> Matcher:
            found = made(grammar, tokenizer, **options)
            if grammar == broken:
                monkeypatch.setattr(found, "mask", too_complex(found, n_before))
            return found

        monkeypatch.setattr(Grammar, "matcher", matcher)
        scripted, _ = toys.scripted_model(path, lambda seen: B, n_slots=2)
        with scripted:
            sound = Grammar.regex("[a-z]{3,5}!")
            ended, first, free = generate(
                scripted, [[70], [71], [72]], max_tokens=7, grammars=[broken, sound, None], continuation=True
            )
        assert (ended.text, ended.finish_reason) == ("b" * n_before, None)
        assert ended.problem == "The grammar is too complex to follow."
        assert (first.text, first.finish_reason, first.problem) == ("bbbbb!", "eos", "")
        assert free.text == "b" * 7


def test_a_grammar_that_cannot_begin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def matcher(grammar: Grammar, *_: Any, **__: Any) -> Matcher:
        raise GrammarError("It is too large.")

    monkeypatch.setattr(Grammar, "matcher", matcher)
    scripted, _ = toys.scripted_model(path, lambda seen: 70)
    with scripted:
        broken, free = generate(scripted, [[70], [71]], max_tokens=2, grammars=[Grammar.regex("a"), None])
    assert (broken.text, broken.finish_reason, broken.problem) == ("", None, "It is too large.")
    assert free.finish_reason == "length"


def test_a_model_that_never_says_what_its_grammar_allows(path: Path) -> None:
    scripted, backend = toys.scripted_model(path, lambda seen: 70)
    forward = backend.logits
    backend.logits = lambda *given: np.where(forward(*given) < forward(*given).max(), -np.inf, 0).astype(np.float32)
    with scripted:
        [answer] = generate(scripted, [[70]], max_tokens=9, grammars=[Grammar.regex("[01]{2,9}")])
    assert (answer.text, answer.finish_reason) == ("", None)
    assert "no probability to any token" in answer.problem


def test_a_model_without_an_end_token_has_no_grammars(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(path, backend="reference") as endless:
        monkeypatch.setattr(type(endless.tokenizer), "eog_ids", frozenset())
        with pytest.raises(GrammarError, match="no token that ends a text"):
            generate(endless, [[70]], max_tokens=2, grammars=[Grammar.regex("a")])


def test_a_grammar_ends_with_the_context(path: Path) -> None:
    scripted, _ = toys.scripted_model(path, lambda seen: 70, context=8)
    with scripted:
        [answer] = generate(
            scripted, [[70, 71, 72]], max_tokens=None, grammars=[Grammar.regex("(only|just) this text")]
        )
    assert len(answer.token_ids) == 6
    assert answer.finish_reason == "length"


def test_progress_counts_answers(model: Model) -> None:
    told: list[tuple[int, int]] = []
    generate(model, [[i] for i in range(9)], max_tokens=2, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (9, 9)
    assert told == sorted(told)
    assert generate(model, [], max_tokens=2) == []


def test_what_cannot_be_answered_is_a_sentence(model: Model) -> None:
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: generate(model, [[1], []], max_tokens=2), UsageError, "prompt is empty"),
        (lambda: generate(model, [[1] * 65], max_tokens=2), ContextError, "65 tokens and the context holds 64"),
        (lambda: generate(model, [[999]], max_tokens=2), UsageError, "this model's are 0 to 268"),
        (lambda: generate(model, [[1]], max_tokens=0), UsageError, "max_tokens is 0"),
        (lambda: generate(model, [[1]], max_tokens=2, stop=[""]), UsageError, "stop string is empty"),
        (lambda: generate(model, [[1]], max_tokens=2, grammars=[]), UsageError, "0 grammars for 1 prompts"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


def test_logits_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    def broken(name: str, values: Any) -> Any:
        return values * np.nan if name == "output_norm.weight" else values

    with (
        load(toys.toy_gguf(tmp_path / "broken.gguf", change=broken), backend="reference") as model,
        pytest.raises(BackendError, match="not finite"),
    ):
        generate(model, [[1, 2]], max_tokens=2)


def test_slots_follow_from_the_free_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(path) as model:
        a_slot = model.spec.kv_bytes_per_token() * 64
    weights = batch.weights_bytes(batch.open_checkpoint(path), "native")
    for free, expected in ((0, 1), (weights + 2 * 5 * a_slot, 5), (1 << 40, 32)):
        monkeypatch.setattr(batch, "available_bytes", lambda free=free: free)
        assert evaluate_slots(path) == expected
    monkeypatch.setattr(batch, "available_bytes", lambda: weights + 2 * 8 * a_slot)
    assert evaluate_slots(path, kv_type="f32") == 4
    assert evaluate_slots(path, context=32) == 16
    monkeypatch.setattr(batch, "available_bytes", lambda: None)
    assert evaluate_slots(path) == 8
    with pytest.raises(ContextError, match="was made for 64"):
        evaluate_slots(path, context=65)
    with pytest.raises(ModelFileError):
        evaluate_slots(path.with_name("missing.gguf"))
