"""What `summarise` counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.errors import DataError, UsageError
from ingle.train.data.sources import Source
from ingle.train.data.summary import QUANTILES, Lengths, summarise
from ingle.train.data.vocabulary import Vocabulary, train_tokenizer


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_tokenizer(["the fire and the hearth"] * 3, 288)


@pytest.fixture
def data(tmp_path: Path) -> list[Source]:
    texts = [{"text": "fire", "license": "mit"}, {"text": "\u00e9\u00e9"}, {"text": "fire"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in texts) + "{\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "fire?", "response": "fire"}) + "\n")
    (tmp_path / "c.txt").write_text("fire")
    return [
        Source(str(tmp_path / name), licence) for name, licence in (("a.jsonl", None), ("b.jsonl", "x"), ("c.txt", "x"))
    ]


def test_without_a_vocabulary_nothing_is_said_of_tokens(data: list[Source]) -> None:
    found = summarise(data)
    a, b, c = found.parts
    assert (a.documents, a.bytes, a.characters, a.duplicates, a.broken) == (3, 4 + 4 + 4, 4 + 2 + 4, 1, 1)
    assert a.licences == {"mit": 1, "not stated": 2}
    assert (a.tokens, a.learnt_tokens, a.changed) == (None, None, None)
    chat = "<|im_start|>user\nfire?<|im_end|>\n<|im_start|>assistant\nfire<|im_end|>\n"
    assert (b.characters, b.learnt_characters) == (len(chat), len("fire<|im_end|>"))
    assert b.learnt_share == len("fire<|im_end|>") / len(chat)
    assert c.duplicates == 1  # of a document in another source
    total = found.total
    assert (total.documents, total.duplicates, total.broken) == (5, 2, 1)
    assert total.licences == {"mit": 1, "not stated": 2, "x": 2}
    assert found.lengths.unit == "characters"
    assert (found.lengths.least, found.lengths.most) == (2, len(chat))
    assert [sentence.split(": ")[0] for sentence in found.broken] == [f"{data[0].path_or_name}:4"]


def test_tokens_are_those_of_the_vocabulary(data: list[Source], vocabulary: Vocabulary) -> None:
    found = summarise(data, vocabulary)
    n_fire = len(vocabulary.tokenizer.encode("fire").ids)
    a, b, _ = found.parts
    assert a.tokens == a.learnt_tokens == n_fire + 4 + n_fire + 3
    assert b.learnt_tokens == n_fire + 1
    assert b.tokens is not None
    assert b.learnt_share == (n_fire + 1) / b.tokens
    assert found.total.tokens == sum(part.tokens or 0 for part in found.parts)
    assert found.total.changed == 0
    assert (found.lengths.unit, found.lengths.most) == ("tokens", b.tokens)


def test_documents_that_a_tokenizer_changes_are_counted(tmp_path: Path, vocabulary: Vocabulary) -> None:
    parsed = json.loads(vocabulary.to_json()) | {"normalizer": {"type": "NFC"}}
    (tmp_path / "a.txt").write_text("e\u0301\n<|endoftext|>\n\u00e9")
    assert summarise([Source(str(tmp_path / "a.txt"))], Vocabulary.from_json(json.dumps(parsed))).total.changed == 1


def test_examples_are_the_first_of_each_source(data: list[Source]) -> None:
    examples = summarise(data, examples=2).examples
    assert [document.text for document in examples[:2]] == ["fire", "\u00e9\u00e9"]
    assert len(examples) == 2 + 1 + 1
    assert summarise(data, examples=0).examples == ()


def test_the_record_is_json_and_cuts_examples(tmp_path: Path, data: list[Source], vocabulary: Vocabulary) -> None:
    (tmp_path / "long.txt").write_text("x" * 5000)
    found = summarise([*data, Source(str(tmp_path / "long.txt"))], vocabulary)
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert [source["documents"] for source in record["sources"]] == [3, 1, 1, 1]
    assert record["total"]["licences"]["x"] == 2
    assert record["examples"][-1]["segments"] == [{"text": "x" * 2000, "learn": True}]
    assert record["examples"][-1]["cut"]
    assert not record["examples"][0]["cut"]
    assert sum(bar["documents"] for bar in record["lengths"]["histogram"]) == 6


@given(st.lists(st.integers(1, 10000), min_size=1, max_size=60))
def test_lengths(lengths: list[int]) -> None:
    found = Lengths.of("tokens", lengths)
    ordered = sorted(lengths)
    assert (found.least, found.most) == (ordered[0], ordered[-1])
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))
    assert list(found.quantiles) == list(QUANTILES)
    for percent, length in found.quantiles.items():
        assert sum(n < length for n in lengths) <= percent / 100 * len(lengths) + 0.5
        assert sum(n > length for n in lengths) <= (1 - percent / 100) * len(lengths) + 0.5
    assert sum(n for _, _, n in found.histogram) == len(lengths)
    for low, high, n in found.histogram:
        assert n == sum(low <= length < high for length in lengths)
    assert all(
        high == following for (_, high, _), (following, _, _) in zip(found.histogram, found.histogram[1:], strict=False)
    )


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one source"):
        summarise([])
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="no document that can be read"):
        summarise([Source(str(tmp_path / "a.jsonl"))])
