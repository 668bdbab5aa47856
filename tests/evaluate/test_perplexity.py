"""Perplexity and divergence are what their definitions say, with errors that follow from their units."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import toys
from ingle import load
from ingle.engine.model import Model
from ingle.errors import BackendError, DataError, UsageError
from ingle.evaluate.divergence import compare_logits, diverge
from ingle.evaluate.perplexity import run_perplexity, split_documents
from ingle.evaluate.result import Metric, TaskResult

WORDS = ["the", "and", "a", "ou", "in", "er", "cats", "dog", "naïve", "7,", "end."]
END = toys.vocabulary().index("<|im_end|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("perplexity")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Model]:
    """As `model`, its matrices a little different."""
    rng = np.random.default_rng(1)

    def change(name: str, values: np.ndarray) -> np.ndarray:
        return values if values.ndim == 1 else values + rng.normal(0, 0.05, values.shape)

    path = toys.toy_gguf(folder / "reference.gguf", n_context=64, change=change)
    with load(path, backend="reference", kv_type="f32") as loaded:
        yield loaded


def documents(n: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(3, 12))) for _ in range(n)]


def write(folder: Path, texts: list[str]) -> Path:
    path = folder / f"text{len(texts)}.txt"
    path.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    return path


def logprobs(model: Model, ids: list[int]) -> np.ndarray:
    """Of all tokens at each position, float64 [n, V]."""
    logits = model.logits(ids).astype(np.float64)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def metric(result: TaskResult, name: str) -> Metric:
    found = result.metric(name)
    assert found is not None
    return found


def test_perplexity_by_document(model: Model, folder: Path) -> None:
    texts = documents(25)
    [result] = run_perplexity(model, write(folder, texts))
    nats, counts = [], []
    for text in texts:
        ids = [END, *model.tokenizer.encode(text)]
        assert len(ids) <= 64, "one window each, so that the definition is plain"
        chosen = logprobs(model, ids[:-1])[np.arange(len(ids) - 1), ids[1:]]
        nats.append(-chosen.sum())
        counts.append(len(ids) - 1)
    mean = sum(nats) / sum(counts)
    perplexity, bits = metric(result, "perplexity"), metric(result, "bits_per_byte")
    assert result.metrics[0] is perplexity
    assert perplexity.value == pytest.approx(math.exp(mean), rel=1e-5)
    residuals = np.array(nats) - mean * np.array(counts)
    stderr = math.sqrt(25 / 24 * (residuals**2).sum()) / sum(counts)
    assert perplexity.stderr == pytest.approx(math.exp(mean) * stderr, rel=1e-4)
    n_bytes = [len(text.encode()) for text in texts]
    assert bits.value == pytest.approx(sum(nats) / math.log(2) / sum(n_bytes), rel=1e-5)
    np.testing.assert_allclose(bits.values, np.array(nats) / math.log(2) / n_bytes, rtol=1e-5)
    assert np.average(bits.values, weights=result.details["weights"]["bits_per_byte"]) == pytest.approx(bits.value)
    n_words = sum(len(text.split()) for text in texts)
    assert metric(result, "word_perplexity").value == pytest.approx(math.exp(sum(nats) / n_words), rel=1e-4)
    assert {one.n for one in result.metrics} == {25}
    assert len(set(result.item_ids)) == 25
    assert result.details["n_tokens"] == sum(counts)
    assert result.details["settings"] == {"window": 64, "unit": "document"}
    assert not any(one.higher_is_better for one in result.metrics)


def test_perplexity_by_window(model: Model, folder: Path) -> None:
    text = " ".join(documents(12))
    path = write(folder, [text])
    [result] = run_perplexity(model, path, window=16)
    ids = model.tokenizer.encode(text)
    assert result.details["settings"] == {"window": 16, "unit": "window"}
    assert metric(result, "bits_per_byte").n == len(result.item_ids) == math.ceil(len(ids) / 16)
    assert sum(result.details["weights"]["bits_per_byte"]) == len(text.encode()) == result.details["n_bytes"]
    nats = 0.0
    for start in range(0, len(ids), 16):
        stop = min(start + 16, len(ids))
        seen = [END, *ids][max(0, stop - 16) : stop]  # the last window is filled up with what came before
        nats -= logprobs(model, seen)[np.arange(start - stop, 0), ids[start:stop]].sum()
    assert metric(result, "perplexity").value == pytest.approx(math.exp(nats / len(ids)), rel=1e-5)
    assert 0 < metric(result, "perplexity").stderr < metric(result, "perplexity").value  # type: ignore[operator]
    assert "by window" in result.notes[0]


def test_one_unit_has_no_error(model: Model, folder: Path) -> None:
    [result] = run_perplexity(model, write(folder, documents(1)))
    assert all(one.stderr is None for one in result.metrics)


def test_a_reference(model: Model, reference: Model, folder: Path) -> None:
    texts = documents(22)
    [result] = run_perplexity(model, write(folder, texts), reference=reference)
    kls, same, differences = [], [], []
    for text in texts:
        ids = [END, *model.tokenizer.encode(text)]
        ours, theirs = logprobs(model, ids[:-1]), logprobs(reference, ids[:-1])
        kls.append((np.exp(theirs) * (theirs - ours)).sum(axis=1))
        same.append(ours.argmax(axis=1) == theirs.argmax(axis=1))
        differences.append((theirs - ours)[np.arange(len(ids) - 1), ids[1:]])
    kl, agreement = metric(result, "kl"), metric(result, "top1_agreement")
    assert kl.value == pytest.approx(np.concatenate(kls).mean(), rel=1e-4)
    assert kl.value > 1e-4
    np.testing.assert_allclose(kl.values, [one.mean() for one in kls], rtol=1e-3)
    assert np.average(kl.values, weights=result.details["weights"]["kl"]) == pytest.approx(kl.value)
    assert kl.stderr is not None
    assert 0 < kl.stderr < kl.value
    assert metric(result, "kl_p99").value == pytest.approx(np.quantile(np.concatenate(kls), 0.99), rel=1e-3)
    assert agreement.value == pytest.approx(np.concatenate(same).mean())
    assert 0 < agreement.value < 1
    assert agreement.higher_is_better
    ratio = metric(result, "perplexity_ratio")
    assert ratio.value == pytest.approx(math.exp(np.concatenate(differences).mean()), rel=1e-4)
    [alone] = run_perplexity(model, write(folder, texts))
    assert metric(alone, "perplexity").value == pytest.approx(metric(result, "perplexity").value, rel=1e-5)
    # The two are measured on the same tokens, so the error is that of the differences, document by document.
    counts = np.array([len(one) for one in differences])
    residuals = np.array([one.sum() for one in differences]) - math.log(ratio.value) * counts
    expected = ratio.value * math.sqrt(22 / 21 * (residuals**2).sum()) / counts.sum()
    assert ratio.stderr == pytest.approx(expected, rel=1e-3)


def test_a_model_does_not_differ_from_itself(model: Model, path: Path, folder: Path) -> None:
    with load(path, backend="reference", kv_type="f32") as twin:
        [result] = run_perplexity(model, write(folder, documents(20)), reference=twin)
    assert metric(result, "kl").value == metric(result, "kl_p99").value == 0
    assert metric(result, "top1_agreement").value == metric(result, "perplexity_ratio").value == 1


@pytest.mark.parametrize("n_rows", [512, 20, 7])
def test_the_windows_of_a_divergence_are_those_of_scores(
    model: Model, reference: Model, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    """A context that is more than the token before, in one call or in several: some of it, all of it, and the rest."""
    monkeypatch.setattr("ingle.evaluate.divergence.chunk_rows", lambda spec: n_rows)
    ids = random.Random(5).choices(range(200), k=60)
    [one] = diverge(model, reference, [(ids[:21], ids[21:])])
    expected = logprobs(model, ids[:-1])[20:]
    np.testing.assert_allclose(one.nats, -expected[np.arange(39), ids[21:]], rtol=1e-5)
    theirs = logprobs(reference, ids[:-1])[20:]
    np.testing.assert_allclose(one.reference_nats, -theirs[np.arange(39), ids[21:]], rtol=1e-5)
    assert one.same_top.tolist() == (expected.argmax(axis=1) == theirs.argmax(axis=1)).tolist()


def test_tokens_that_a_model_never_expects() -> None:
    reference = np.array([[0.0, -np.inf, 1.0], [0.0, 0.0, 0.0]], np.float32)
    model = np.array([[0.0, -np.inf, 1.0], [0.0, -np.inf, 0.0]], np.float32)
    [(nats, reference_nats, kl, same)] = compare_logits(model, reference, np.array([2, 1], np.int32))
    assert kl.tolist() == [0, math.inf]
    assert nats[1] == math.inf
    assert reference_nats[1] == pytest.approx(math.log(3))
    assert same.tolist() == [True, True]
    [(_, _, kl, _)] = compare_logits(reference, model, np.array([2, 0], np.int32))
    np.testing.assert_allclose(kl, [0, math.log(3 / 2)], atol=1e-12)
    with pytest.raises(BackendError, match="not finite"):
        list(compare_logits(model, np.full_like(model, np.nan), np.array([0, 0], np.int32)))


def test_a_limit_takes_the_first_units(model: Model, folder: Path) -> None:
    path = write(folder, documents(25))
    [all_of_it], [some] = run_perplexity(model, path), run_perplexity(model, path, limit=4)
    assert some.item_ids == all_of_it.item_ids[:4]
    np.testing.assert_allclose(
        metric(some, "bits_per_byte").values, metric(all_of_it, "bits_per_byte").values[:4], rtol=1e-5
    )
    [windows] = run_perplexity(model, write(folder, [" ".join(documents(9))]), window=8, limit=3)
    assert windows.details["n_tokens"] == 24


@pytest.mark.parametrize("with_reference", [False, True])
def test_progress_names_the_task(model: Model, reference: Model, folder: Path, with_reference: bool) -> None:
    told: list[tuple[str, int, int]] = []
    run_perplexity(
        model,
        write(folder, documents(21)),
        reference=reference if with_reference else None,
        on_progress=lambda *call: told.append(call),
    )
    assert told[-1] == ("perplexity", 21, 21)


def test_nothing_is_done_to_the_text_first(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"the end.\r\na dog\r")
    [result] = run_perplexity(model, tmp_path / "text.txt")
    assert result.details["n_bytes"] == len("the end.\r\na dog\r")
    assert result.details["n_tokens"] == len(model.tokenizer.encode("the end.\r\na dog\r"))


def test_a_document_without_tokens_is_none(model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = documents(24)
    [expected] = run_perplexity(model, write(folder, texts))
    encode = model.tokenizer.encode
    monkeypatch.setattr(model.tokenizer, "encode", lambda text, **_: [] if "\u200b" in text else encode(text))
    [result] = run_perplexity(model, write(folder, [*texts[:5], "\u200b", *texts[5:], "\u200b\u200b"]))
    assert result.metrics == expected.metrics
    assert result.item_ids == expected.item_ids
    with pytest.raises(DataError, match="no text"):
        run_perplexity(model, write(folder, ["\u200b"]))


def test_documents_of_a_text() -> None:
    assert split_documents("one\n\ntwo = three") == ["one\n\ntwo = three"]
    assert split_documents("one<|endoftext|>\n<|endoftext|>two\n") == ["one", "two\n"]
    wiki = " \n = Lobster = \n \n Text . \n \n = = Food = = \n \n More . \n \n = Crab = \n \n Text . \n"
    assert split_documents(wiki) == [wiki[2 : wiki.index(" = Crab")], wiki[wiki.index(" = Crab") :]]
    assert split_documents("Text first\n" + wiki) == ["Text first\n" + wiki]


def test_what_cannot_be_measured_is_a_sentence(model: Model, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n<|endoftext|>\n")
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, text in (("none", "cannot be read"), ("latin", "not UTF-8"), ("empty", "no text"), ("blank", "no text")):
        with pytest.raises(DataError, match=text):
            run_perplexity(model, tmp_path / f"{name}.txt")
    path = write(folder, documents(2))
    with pytest.raises(UsageError, match="window is 65 tokens; expected 1 to 64"):
        run_perplexity(model, path, window=65)
    with pytest.raises(UsageError, match="limit is 0"):
        run_perplexity(model, path, limit=0)
    with load(backend="reference") as other, pytest.raises(UsageError, match="the same vocabulary"):
        run_perplexity(model, path, reference=other)


def test_a_reference_with_other_tokens_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*toys.vocabulary()]
    words[3] = "other"
    monkeypatch.setattr(toys, "vocabulary", lambda: words)
    path = toys.toy_gguf(tmp_path / "other.gguf", n_context=64)
    with load(path, backend="reference") as other, pytest.raises(UsageError, match=r"Token 3 is .* and 'other'"):
        diverge(model, other, [([1], [2])])
