"""Answers, with a scripted backend whose next token depends on every token in the slot."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import toys
from ingle.engine import generate as module
from ingle.engine.model import Model
from ingle.engine.token import Token
from ingle.errors import BackendError, ContextError, UsageError

N_VOCAB = len(toys.vocabulary())
SCRIPT = toys.hashed(256)  # never an end token
LONG = [int(token) for token in np.random.default_rng(1).integers(0, 256, 100)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf")


def expected(prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(SCRIPT(tokens))
    return tokens[len(prompt) :]


def ids(tokens: list[Token]) -> list[int]:
    return [token.token_id for token in tokens]


def saying(text: str, then: int | None = None) -> Callable[[list[int]], int]:
    """A script for the prompt [1]: the bytes of `text`, then a token."""
    script = [toys.vocabulary().index(letter) for letter in map(toys.byte_letters().__getitem__, text.encode())]
    end = N_VOCAB - 1 if then is None else then
    return lambda tokens: [*script, *[end] * 99][len(tokens) - 1]


@pytest.mark.parametrize("chunk", [1, 7, 100, 512])
def test_chunks_of_a_prompt_change_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    model, backend = toys.scripted_model(toy, SCRIPT)
    assert ids(list(model.generate(LONG, max_tokens=9))) == expected(LONG, 9)
    assert [len(rows) for rows in backend.calls] == [
        *[min(chunk, 100 - start) for start in range(0, 100, chunk)],
        *[1] * 8,
    ]


def test_what_is_known_is_not_computed_again(toy: Path) -> None:
    model, backend = toys.scripted_model(toy, SCRIPT)
    first = list(model.generate(LONG, max_tokens=5))
    backend.calls.clear()
    longer = [*LONG, *ids(first), 3, 4]
    second = list(model.generate(longer, max_tokens=5))
    assert ids(second) == expected(longer, 5)
    assert second[-1].stats.cached_tokens == 104  # the fifth token was sampled, never computed
    assert sum(map(len, backend.calls)) == 3 + 4
    third = list(model.generate(LONG[:50], max_tokens=5))
    assert ids(third) == expected(LONG[:50], 5)
    assert third[0].stats.cached_tokens == 49


def test_with_a_seed_whole_chunks_are_used_again(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 30)
    model, backend = toys.scripted_model(toy, SCRIPT)
    fresh = list(model.generate(LONG, max_tokens=3, seed=0))
    calls = [len(rows) for rows in backend.calls]
    backend.calls.clear()
    again = list(model.generate(LONG, max_tokens=3, seed=0))
    assert again[-1].stats.cached_tokens == 90
    assert [len(rows) for rows in backend.calls] == calls[3:]
    assert ids(again) == ids(fresh) == expected(LONG, 3)
    # Positions that were not computed in the chunks of a fresh prompt do not count.
    list(model.generate(LONG[:15]))
    list(model.generate(LONG, max_tokens=1))
    assert next(model.generate(LONG, max_tokens=1, seed=0)).stats.cached_tokens == 0


def test_interleaved_answers_keep_apart(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT, n_slots=3)
    prompts = [LONG, [*LONG[:60], 7], LONG[:30]]
    answers = [model.generate(prompt, max_tokens=20) for prompt in prompts]
    turns = list(zip(*answers, strict=True))
    for prompt, tokens in zip(prompts, zip(*turns, strict=True), strict=True):
        assert ids(list(tokens)) == expected(prompt, 20)


def test_no_slot_left(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT)
    first = model.generate(LONG)
    next(first)
    with pytest.raises(BackendError, match="n_slots=2"):
        next(model.generate([1]))
    first.close()
    assert ids(list(model.generate([1], max_tokens=2))) == expected([1], 2)


def test_a_dropped_answer_frees_its_slot_at_once(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT)
    gc.disable()
    try:
        for _ in range(3):
            answer = model.generate(LONG)
            next(answer)
            del answer
    finally:
        gc.enable()


def test_the_slot_is_free_when_the_last_token_is_given(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT)
    answer = model.generate([1], max_tokens=1)
    assert next(answer).finish_reason == "length"
    assert answer.ended
    next(model.generate([2]))


def test_the_records(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT)
    tokens = list(model.generate([1, 2], max_tokens=4, temperature=0.0))
    assert [token.index for token in tokens] == [0, 1, 2, 3]
    assert [token.finish_reason for token in tokens] == [None, None, None, "length"]
    times = [token.time_s for token in tokens]
    assert times == sorted(times)
    assert times[0] > 0
    # One token has a logit of 20, the others of 0.
    assert tokens[0].logprob == pytest.approx(-np.log1p((N_VOCAB - 1) * np.exp(-20)), abs=1e-6)
    stats = tokens[-1].stats
    assert (stats.prompt_tokens, stats.cached_tokens, stats.n_tokens) == (2, 0, 4)
    assert stats.ttft_s == times[0]
    assert 0 < stats.prefill_s <= times[0]
    assert 0 < stats.decode_s <= times[-1] - times[0]
    assert stats.decode_tokens_per_s == pytest.approx(3 / stats.decode_s)
    assert stats.prefill_tokens_per_s == pytest.approx(2 / stats.prefill_s)
    assert tokens[0].stats.decode_tokens_per_s is None
    assert stats.peak_memory_bytes is None or stats.peak_memory_bytes > 1 << 20


def test_the_end_token_ends(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, saying("hi"))
    tokens = list(model.generate([1], temperature=0.0))
    assert "".join(token.text for token in tokens) == "hi"
    assert tokens[-1].finish_reason == "eos"
    assert tokens[-1].text == ""
    assert len(tokens) == 3
    more = list(model.generate([1], temperature=0.0, ignore_eos=True, max_tokens=6))
    assert [token.finish_reason for token in more] == [None] * 5 + ["length"]
    assert "".join(token.text for token in more) == "hi"


@pytest.mark.parametrize(
    ("stop", "text"),
    [("c", "ab"), (["cd"], "ab"), (["zz", "de"], "abc"), ("abc", ""), (("f", "e"), "abcd"), ("ef!", "abcdef")],
)
def test_stop_strings(toy: Path, stop: str | list[str], text: str) -> None:
    model, _ = toys.scripted_model(toy, saying("abcdef"))
    tokens = list(model.generate([1], temperature=0.0, stop=stop))
    assert "".join(token.text for token in tokens) == text
    assert tokens[-1].finish_reason == ("eos" if text == "abcdef" else "stop")
    assert not any(token.finish_reason for token in tokens[:-1])


def test_what_might_become_a_stop_string_is_held_back_and_comes_at_the_end(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, saying("abcdef"))
    tokens = list(model.generate([1], temperature=0.0, stop="bcx", max_tokens=3))
    assert [token.text for token in tokens] == ["a", "", "bc"]
    assert tokens[-1].finish_reason == "length"


def test_characters_come_whole(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, saying("é€🙂"))
    tokens = list(model.generate([1], temperature=0.0))
    assert [token.text for token in tokens] == ["", "é", "", "", "€", "", "", "", "🙂", ""]
    cut = list(model.generate([1], temperature=0.0, max_tokens=4))
    assert "".join(token.text for token in cut) == "é\N{REPLACEMENT CHARACTER}"


def test_the_context_limits_the_answer(toy: Path) -> None:
    model, _ = toys.scripted_model(toy, SCRIPT, context=10)
    tokens = list(model.generate([1, 2, 3], max_tokens=None))
    assert ids(tokens) == expected([1, 2, 3], 8)  # ten positions, and one token that is never computed
    assert tokens[-1].finish_reason == "length"
    full = list(model.generate(LONG[:10], max_tokens=99))
    assert ids(full) == expected(LONG[:10], 1)


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_computed(toy: Path) -> None:
    model, backend = toys.scripted_model(toy, SCRIPT, context=10)
    with pytest.raises(ContextError, match=r"11 tokens .* holds 10; shorten .* larger context .*256"):
        model.generate(LONG[:11])
    assert not backend.calls


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([1], {"max_tokens": 0}, "max_tokens is 0"),
        ([1], {"temperature": -1}, "temperature is -1"),
        ([1], {"stop": ""}, "stop string"),
        ("", {}, "prompt is empty"),
        ([], {}, "prompt is empty"),
        ([-1], {}, "from -1 to -1"),
        ([1, N_VOCAB], {}, f"are 0 to {N_VOCAB - 1}"),
    ],
)
def test_what_cannot_be_is_said_at_the_call(
    toy: Path, prompt: list[int], options: dict[str, int], message: str
) -> None:
    model, backend = toys.scripted_model(toy, SCRIPT)
    with pytest.raises(UsageError, match=message):
        model.generate(prompt, **options)  # type: ignore[arg-type]
    assert not backend.calls
    with pytest.raises(TypeError, match="temprature"):
        model.generate([1], temprature=1)  # type: ignore[call-arg]


def test_prefill_tells_its_progress_and_can_be_ended_between_chunks(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 30)
    model, backend = toys.scripted_model(toy, SCRIPT)
    seen: list[tuple[int, int]] = []
    next(model.generate(LONG, on_prefill=lambda done, total: seen.append((done, total))))
    assert seen == [(30, 100), (60, 100), (90, 100), (100, 100)]

    model, backend = toys.scripted_model(toy, SCRIPT)

    def enough(done: int, total: int) -> None:
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(model.generate(LONG, on_prefill=enough))
    assert sum(map(len, backend.calls)) == 60
    tokens = list(model.generate(LONG, max_tokens=3))
    assert tokens[0].stats.cached_tokens == 60
    assert ids(tokens) == expected(LONG, 3)


def test_a_call_that_fails_leaves_a_slot_that_is_right(toy: Path) -> None:
    model, backend = toys.scripted_model(toy, SCRIPT)
    answer = model.generate(LONG, max_tokens=20)
    list(itertools.islice(answer, 5))
    attention = backend.attention

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    backend.attention = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        next(answer)
    assert answer.ended
    backend.attention = attention  # type: ignore[method-assign]
    assert ids(list(model.generate(LONG, max_tokens=20))) == expected(LONG, 20)


def test_cancel_ends_before_the_next_token_or_chunk(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 30)
    model, backend = toys.scripted_model(toy, SCRIPT)
    answer = model.generate(LONG)
    assert len(list(itertools.islice(answer, 3))) == 3
    answer.cancel()
    assert list(answer) == []
    assert answer.stats.n_tokens == 3

    calls = len(backend.calls)
    begun = model.generate(LONG[::-1], on_prefill=lambda done, total: begun.cancel())
    assert list(begun) == []
    assert len(backend.calls) == calls + 1


def test_rows_of_padding_are_no_tokens(toy: Path) -> None:
    """Some files have more rows in the output matrix than tokens; their logits must not be drawn from."""
    model, _ = toys.scripted_model(toy, lambda tokens: N_VOCAB - 1)
    model.tokenizer = Shorter(model)  # type: ignore[assignment]
    for token in model.generate([1], max_tokens=20, ignore_eos=True, top_k=0, min_p=0.0, top_p=1.0):
        assert token.token_id < N_VOCAB - 1


class Shorter:
    """A tokenizer that lacks the last token."""

    def __init__(self, model: Model) -> None:
        self._whole = model.tokenizer
        self.n_vocab = model.tokenizer.n_vocab - 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._whole, name)


def test_chunks_are_smaller_where_a_row_takes_longer(toy: Path) -> None:
    spec = toys.scripted_model(toy, SCRIPT)[0].spec
    assert module.chunk_rows(spec) == module.CHUNK
    seven_b = dataclasses.replace(
        spec, n_embd=4096, n_ff=11008, n_heads=32, n_kv_heads=32, head_dim=128, schedule=tuple(range(32))
    )
    half = dataclasses.replace(seven_b, schedule=tuple(range(12)))
    assert module.chunk_rows(half) == 384
    assert module.chunk_rows(seven_b) == module.LEAST_CHUNK
