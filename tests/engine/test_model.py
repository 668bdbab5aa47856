"""Models on real backends: loading, what is refused, and that answers repeat."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import ingle
import toys
from ingle.engine import memory
from ingle.engine import model as module
from ingle.engine.model import weights_bytes
from ingle.errors import (
    BackendError,
    CheckpointError,
    ContextError,
    GGUFError,
    MemoryLimitError,
    TokenizerError,
    UsageError,
)
from ingle.models.checkpoint import open_checkpoint
from story_teller import STORY_TELLER

BACKENDS = ["reference", "native"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.toy_gguf(tmp_path_factory.mktemp("toy") / "toy.gguf")


@pytest.mark.parametrize("backend", BACKENDS)
def test_load_and_generate(toy: Path, backend: str) -> None:
    with ingle.load(toy, backend=backend) as model:
        assert (model.backend, model.context, model.spec.n_layers) == (backend, 256, 2)
        assert str(toy) in model.name
        tokens = list(model.generate("The cat and the", max_tokens=12, seed=1, ignore_eos=True))
        assert len(tokens) == 12
        again = list(model.generate("The cat and the", max_tokens=12, seed=1, ignore_eos=True))
        assert [token.token_id for token in again] == [token.token_id for token in tokens]
        other = list(model.generate("The cat and the", max_tokens=12, seed=2, ignore_eos=True))
        assert [token.token_id for token in other] != [token.token_id for token in tokens]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_repeats_whatever_was_asked_before(backend: str) -> None:
    """Also where the processor's matrix tiles round otherwise than its vectors: then reused positions would tell."""
    prompt = "the cat and the dog and the owl went out and then the other cat came in from the garden and sat there"
    with ingle.load(STORY_TELLER, backend=backend) as model:  # quantised, where roundings show most
        answers = []
        for before in ("", prompt[:50], prompt, "and"):
            if before:
                list(model.generate(before, max_tokens=20, ignore_eos=True))
            tokens = list(model.generate(prompt, max_tokens=60, seed=3, temperature=1.2, ignore_eos=True))
            answers.append([(token.token_id, token.logprob) for token in tokens])
        assert answers == [answers[0]] * 4
        assert next(model.generate(prompt)).stats.cached_tokens == len(model.tokenizer.encode(prompt)) - 1


def test_the_same_seed_gives_the_same_text_on_any_number_of_threads(toy: Path) -> None:
    texts = set()
    for threads in (1, 2, 3):
        with ingle.load(toy, threads=threads) as model:
            tokens = list(model.generate("Once upon a time", max_tokens=60, seed=7, temperature=1.5, ignore_eos=True))
            texts.add(tuple((token.token_id, token.logprob) for token in tokens))
    assert len(texts) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_is_the_largest_logit_each_time(toy: Path, backend: str) -> None:
    with ingle.load(toy, backend=backend, kv_type="f32") as model:
        prompt = model.tokenizer.encode("the and")
        tokens = list(model.generate(prompt, max_tokens=8, temperature=0.0, ignore_eos=True))
        ids = [*prompt, *(token.token_id for token in tokens)]
        logits = model.logits(ids)
        assert logits.shape == (len(ids), model.spec.n_vocab)
        assert logits.dtype == np.float32
        assert logits[len(prompt) - 1 : -1].argmax(axis=1).tolist() == ids[len(prompt) :]
        scores = model.score(ids)
        assert scores.shape == (len(ids) - 1,)
        np.testing.assert_allclose(scores[-8:], [token.logprob for token in tokens], atol=2e-4)
        probabilities = np.exp(logits[0].astype(np.float64))
        assert scores[0] == pytest.approx(np.log(probabilities[ids[1]] / probabilities.sum()), abs=1e-5)


def test_logits_of_more_tokens_than_a_chunk(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(range(40))
    with ingle.load(toy, backend="reference") as model:
        whole = model.logits(ids)
    monkeypatch.setattr("ingle.engine.generate.CHUNK", 7)
    with ingle.load(toy, backend="reference") as model:
        np.testing.assert_allclose(model.logits(ids), whole, atol=1e-5)
        with pytest.raises(ContextError, match="300 tokens"):
            model.logits([1] * 300)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_answer_at_the_same_time(toy: Path, backend: str) -> None:
    prompts = ["the cat", "the dog and", "an owl", "the cat and"]
    with ingle.load(toy, backend=backend, n_slots=4) as model:
        expected = [[t.token_id for t in model.generate(p, max_tokens=15, seed=4)] for p in prompts]
    results: dict[int, list[int]] = {}
    with ingle.load(toy, backend=backend, n_slots=4) as model:

        def answer(i: int) -> None:
            results[i] = [token.token_id for token in model.generate(prompts[i], max_tokens=15, seed=4)]

        threads = [threading.Thread(target=answer, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [results[i] for i in range(4)] == expected


def test_slots_by_default_are_as_many_as_fit(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ingle.load(toy, backend="reference") as model:
        answers = [model.generate([i], max_tokens=2) for i in range(1, 6)]
        for answer in answers[:4]:
            next(answer)
        with pytest.raises(BackendError, match="All 4"):
            next(answers[4])
    monkeypatch.setattr(module, "SLOTS_BYTES", 1)
    with ingle.load(toy, backend="reference") as model:
        answers = [model.generate([i], max_tokens=2) for i in (1, 2)]
        next(answers[0])
        with pytest.raises(BackendError, match="only KV cache slot"):
            next(answers[1])


def test_context_by_default_and_asked_for(tmp_path: Path) -> None:
    path = toys.toy_gguf(tmp_path / "long.gguf", n_context=8192)
    for asked, context in [(None, 4096), (100, 100), (8192, 8192)]:
        with ingle.load(path, backend="reference", context=asked, n_slots=1) as model:
            assert model.context == context
    with pytest.raises(ContextError, match=r"context of 8193 .* made for 8192; ask for 8192 or less"):
        ingle.load(path, backend="reference", context=8193)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context is 0"),
        ({"context": "many"}, "context is 'many'"),
        ({"threads": -1}, "threads is -1"),
        ({"n_slots": True}, "n_slots is True"),
        ({"kv_type": "q5"}, "kv_type is 'q5'; expected 'f32', 'f16', 'q8' or 'q4'"),
    ],
)
def test_arguments_that_cannot_be(toy: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ingle.load(toy, backend="reference", **options)  # type: ignore[arg-type]


def test_a_backend_nobody_knows(toy: Path) -> None:
    with pytest.raises((BackendError, UsageError), match="abacus"):
        ingle.load(toy, backend="abacus")


def almost_enough(toy: Path) -> int:
    """Half of the KV cache is lacking."""
    with closing(open_checkpoint(toy)) as checkpoint:
        need = memory.need(checkpoint.spec, weights_bytes(checkpoint, "reference"), 256, floats=True)
    return need.total_bytes - need.cache_bytes // 2


def test_memory_is_checked_before_it_is_taken(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cache(*_: object, **__: object) -> None:
        raise AssertionError("allocated before the check")

    monkeypatch.setattr("ingle.backends.reference.ReferenceBackend.new_cache", no_cache)
    monkeypatch.setattr(memory, "available_bytes", lambda: almost_enough(toy))
    with pytest.raises(
        MemoryLimitError, match=r"The model needs .* KV cache of 256 .* MiB are free; ask for a context of \d+"
    ):
        ingle.load(toy, backend="reference", n_slots=1)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryLimitError, match=r"0.0 MiB are free; close other programs"):
        ingle.load(toy, backend="reference", context=8)


def test_the_remedy_for_too_little_memory_works(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: almost_enough(toy))
    with pytest.raises(MemoryLimitError) as caught:
        ingle.load(toy, backend="reference", n_slots=1)
    context = int(str(caught.value).split("context of ")[1].split()[0])
    with ingle.load(toy, backend="reference", n_slots=1, context=context):
        pass


def test_a_model_that_does_not_fit_is_offered_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 << 30)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 200 << 20)
    need = memory.Need(weights_bytes=4 << 30, cache_bytes=64 << 20, buffers_bytes=64 << 20)
    with pytest.raises(MemoryLimitError, match="with --memory 2043MiB what does not fit is read from disk"):
        memory.check(need, 4096, 1)


def test_system_memory_is_read() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("missing: /proc/meminfo")
    free, peak = memory.available_bytes(), memory.peak_bytes()
    assert free is not None
    assert free > 1 << 20
    assert peak is not None
    assert 10 << 20 < peak < 1 << 40


def test_a_closed_model_says_so(toy: Path) -> None:
    model = ingle.load(toy, backend="reference")
    running = model.generate("the")
    next(running)
    chat = model.chat()
    model.close()
    model.close()
    for use in (lambda: model.generate("a"), lambda: model.logits([1]), model.chat, lambda: chat.send("a")):
        with pytest.raises(UsageError, match=r"closed; load it again"):
            use()
    with pytest.raises(UsageError, match="closed"):
        next(running)


def test_loading_tells_its_progress_and_can_be_ended(toy: Path) -> None:
    seen: list[tuple[int, int]] = []
    ingle.load(toy, backend="reference", on_progress=lambda done, total: seen.append((done, total))).close()
    assert seen == [(n, 6) for n in range(1, 7)]

    def enough(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingle.load(toy, backend="reference", on_progress=enough)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        ingle.load(tmp_path / "none.gguf", backend="reference")
    (tmp_path / "text.gguf").write_text("Once upon a time")
    with pytest.raises(GGUFError):
        ingle.load(tmp_path / "text.gguf", backend="reference")
    with pytest.raises(CheckpointError):
        ingle.load(tmp_path, backend="reference")


def test_a_model_without_tokenizer_fails_before_its_weights_are_loaded(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Resident", None)  # calling it would fail

    def none(metadata: object) -> None:
        raise TokenizerError("This file has no tokenizer.")

    monkeypatch.setattr(module.Tokenizer, "from_metadata", none)
    with pytest.raises(TokenizerError):
        ingle.load(toy, backend="reference")


def test_weights_that_are_no_numbers_end_in_a_sentence(tmp_path: Path) -> None:
    path = toys.toy_gguf(
        tmp_path / "nan.gguf",
        change=lambda name, values: np.full_like(values, np.nan) if name == "output_norm.weight" else values,
    )
    with ingle.load(path, backend="reference") as model, pytest.raises(BackendError, match="not finite"):
        next(model.generate("a"))


def test_a_hugging_face_directory_gives_what_its_gguf_gives(tmp_path: Path) -> None:
    from ingle.models.convert import convert
    from ingle.text import metadata_from_hf

    toys.huggingface_llama(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "toy.gguf", "f32", extra_metadata=metadata_from_hf)
    answers = []
    for path in (tmp_path / "hf", tmp_path / "toy.gguf"):
        with ingle.load(path, backend="reference") as model:
            answers.append([(t.text, t.token_id) for t in model.generate("the cat", max_tokens=10, seed=0)])
    assert answers[0] == answers[1]
    assert len(answers[0]) > 0


def test_a_split_file_gives_what_the_whole_gives(toy: Path, tmp_path: Path) -> None:
    toys.toy_gguf(tmp_path / "toy.gguf", split_max_tensors=8)
    first, *others = sorted(tmp_path.glob("*.gguf"))
    assert len(others) == 2
    with ingle.load(first, backend="reference") as parts, ingle.load(toy, backend="reference") as whole:
        np.testing.assert_array_equal(parts.logits([1, 2, 3]), whole.logits([1, 2, 3]))
    with pytest.raises(GGUFError, match="open the first"):
        ingle.load(others[0], backend="reference")


def test_the_bundled_model_is_there_and_speaks() -> None:
    assert module.bundled_model().stat().st_size <= 16 << 20
    with ingle.load(backend="reference") as model:
        answers = [model.generate("Once upon a time", max_tokens=24, temperature=0.0)]
        answers.append(model.chat(max_tokens=24, temperature=0.0).send("Tell me a story about a dog."))
        for answer in answers:
            text = "".join(token.text for token in answer)
            assert text.isascii()
            assert len(text.split()) > 8
