"""Vocabularies: trained, loaded, and that every text comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from ingle.errors import CheckpointError, DataError, TokenizerError, UnsupportedError, UsageError
from ingle.gguf import open_gguf
from ingle.text import Tokenizer, metadata_from_hf
from ingle.train.data.conversation import CONTROL_TOKENS, MARKUP_TOKENS, segments
from ingle.train.data.document import Document, Segment
from ingle.train.data.vocabulary import MIN_SIZE, PRE_TOKENIZER, Vocabulary, load_vocabulary, train_tokenizer
from shared_data import shared

CORPUS = [
    "Once upon a time there was a little fire on the hearth. It warmed the house, and the house was glad.\n",
    "The fire burned all night; in the morning it was small.  Then someone laid wood on it: 12 logs, 345 twigs.\r\n",
    "\u00dcber den Bergen ist es hei\u00df."
    " \u041e\u0433\u043e\u043d\u044c \u0433\u043e\u0440\u0438\u0442. \u706b\u304c\u71c3\u3048\u308b\u3002"
    " e\u0301 \U0001f525",
] * 4
CHAT = [{"role": "user", "content": "Is the fire small?"}, {"role": "assistant", "content": "It was."}]


def text(words: str) -> Document:
    return Document((Segment(words),), "here")


@pytest.fixture(scope="module")
def trained() -> Vocabulary:
    return train_tokenizer(CORPUS, 352)


def test_a_trained_vocabulary(trained: Vocabulary) -> None:
    known = [trained.tokenizer.id_to_token(i) for i in range(7)]
    assert known == [*CONTROL_TOKENS, *MARKUP_TOKENS]
    assert (trained.size, trained.end_id, trained.chat_end_id, trained.begin_id) == (352, 0, 2, None)
    assert trained.n_unused == 0
    assert sorted(trained.tokenizer.get_vocab().values()) == list(range(352))
    ids, learn = trained.encode(text(CORPUS[0]))
    assert learn is None
    assert ids[-1] == trained.end_id
    assert len(ids) < len(CORPUS[0]) / 2  # it has learnt the words


def test_markup_is_seen_in_an_answer_and_control_tokens_are_not(trained: Vocabulary) -> None:
    ids = list(range(7))
    assert trained.tokenizer.decode(ids, skip_special_tokens=True) == "".join(MARKUP_TOKENS)
    assert trained.decode(ids) == "".join((*CONTROL_TOKENS, *MARKUP_TOKENS))


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(min_size=1), st.sampled_from(["<|im_end|>", "\r\n", "[PAD300]", "fire", " "]))))
def test_every_text_comes_back(trained: Vocabulary, parts: list[str]) -> None:
    words = "".join(parts) or "x"
    ids, _ = trained.encode(text(words))
    assert min(ids[:-1]) >= len(CONTROL_TOKENS) + len(MARKUP_TOKENS)
    assert trained.decode(ids[:-1]) == words
    assert trained.round_trips(text(words), ids)
    assert not trained.round_trips(text(words + "x"), ids)


def test_a_conversation_comes_back_and_only_the_answer_is_learnt(trained: Vocabulary) -> None:
    document = Document(segments(CHAT), "here")
    ids, learn = trained.encode(document)
    assert learn is not None
    assert trained.decode([i for i, learnt in zip(ids, learn, strict=True) if learnt]) == "It was.<|im_end|>"
    assert trained.decode(ids) == document.text + "<|endoftext|>"
    assert ids.count(1) == ids.count(2) == 2


def test_the_end_is_learnt_where_the_last_segment_is(trained: Vocabulary) -> None:
    ids, learn = trained.encode(Document((Segment("Once upon", learn=False), Segment(" a time")), "here"))
    assert learn is not None
    assert trained.decode([i for i, learnt in zip(ids, learn, strict=True) if learnt]) == " a time<|endoftext|>"


def test_a_batch_is_its_documents(trained: Vocabulary) -> None:
    documents = [text(CORPUS[0]), Document(segments(CHAT), "here"), text(CORPUS[2])]
    assert trained.encode_batch(documents) == [trained.encode(document) for document in documents]
    assert trained.encode_batch([]) == []


def test_training_again_gives_the_same() -> None:
    """Also in another process, with other hash seeds and one thread."""
    script = (
        "import json, sys; from ingle.train.data.vocabulary import train_tokenizer; "
        "print(train_tokenizer(iter(json.load(sys.stdin)), 352).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(CORPUS),
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed, threads in (("1", "1"), ("2", "3"))
    }
    assert digests == {train_tokenizer(CORPUS, 352).digest}
    assert train_tokenizer(CORPUS, 320).digest not in digests


def test_a_small_corpus_is_filled_with_unused_tokens(tmp_path: Path) -> None:
    small = train_tokenizer(["ab ab"], 288)
    merges = json.loads(small.to_json())["model"]["merges"]
    assert small.size == 288
    assert small.n_unused == 288 - MIN_SIZE - len(merges) > 0
    assert small.tokenizer.id_to_token(287) == "[PAD287]"
    small.save(tmp_path / "tokenizer.json")
    again = load_vocabulary(tmp_path)
    assert (again.size, again.n_unused, again.digest) == (288, small.n_unused, small.digest)
    assert 287 not in small.encode(text("[PAD287]"))[0]


def test_the_engine_reads_the_same_tokens(trained: Vocabulary, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer.json")
    keys = metadata_from_hf(tmp_path, trained.size)
    assert keys["tokenizer.ggml.pre"] == PRE_TOKENIZER
    engine = Tokenizer.from_metadata(keys)
    for words in CORPUS[:3]:
        assert engine.encode(words) == trained.encode(text(words))[0][:-1]


@pytest.mark.parametrize("ids", [[352], [0, -1]])
def test_ids_that_there_are_not(trained: Vocabulary, ids: list[int]) -> None:
    with pytest.raises(UsageError, match="Expected token ids from 0 to 351"):
        trained.decode(ids)
    assert trained.decode([]) == ""


@pytest.mark.parametrize("size", [0, MIN_SIZE - 1, 1 << 21])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(UsageError, match=f"A vocabulary of {size} tokens was asked for; expected 263 to 1048576"):
        train_tokenizer(CORPUS, size)


def test_no_text() -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer from"):
        train_tokenizer(iter(["", ""]), 300)


def test_a_run_a_folder_and_a_file(trained: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    trained.save(tmp_path / "run" / "model" / "tokenizer.json")
    paths = (tmp_path / "run", tmp_path / "run" / "model", tmp_path / "run" / "model" / "tokenizer.json")
    for path in paths:
        loaded = load_vocabulary(path)
        assert (loaded.digest, loaded.size, loaded.end_id, loaded.chat_end_id) == (trained.digest, 352, 0, 2)
    assert [file.name for file in (tmp_path / "run" / "model").iterdir()] == ["tokenizer.json"]


def changed(vocabulary: Vocabulary, names: dict[str, str]) -> str:
    """A tokenizer.json with other names for its control tokens."""
    found = vocabulary.to_json()
    for old, new in names.items():
        found = found.replace(old, new)
    return found


def test_an_end_token_of_another_name(trained: Vocabulary, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(changed(trained, {"<|endoftext|>": "<|fin|>"}))
    with pytest.raises(TokenizerError, match="no token that ends a document"):
        load_vocabulary(file)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|fin|>"}))
    loaded = load_vocabulary(file)
    assert loaded.tokenizer.id_to_token(loaded.end_id) == "<|fin|>"
    (tmp_path / "copy").mkdir()
    loaded.save(tmp_path / "copy" / "tokenizer.json")
    assert load_vocabulary(tmp_path / "copy").digest == loaded.digest


def test_a_chat_model_ends_documents_with_another_token_than_turns(trained: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(trained.to_json())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    loaded = load_vocabulary(tmp_path)
    assert (loaded.end_id, loaded.chat_end_id) == (0, 2)


def test_a_beginning_token_is_not_learnt(trained: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(trained.to_json())
    config = {"bos_token": "<|im_start|>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_vocabulary(tmp_path)
    ids, learn = loaded.encode(Document(segments(CHAT), "here"))
    assert ids[:2] == [1, 1]
    assert learn is not None
    assert not learn[0]
    assert len(ids) == len(learn)
    assert loaded.round_trips(text("fire"), loaded.encode(text("fire"))[0])
    assert loaded.digest != trained.digest
    (tmp_path / "copy").mkdir()
    loaded.save(tmp_path / "copy" / "tokenizer.json")
    assert load_vocabulary(tmp_path / "copy").digest == loaded.digest


def test_conversations_want_chatml(trained: Vocabulary, tmp_path: Path) -> None:
    loaded = Vocabulary.from_json(changed(trained, {"<|im_start|>": "<|a|>"}))
    assert loaded.chat_end_id is None
    assert loaded.encode(text("fire"))[0] == trained.encode(text("fire"))[0]
    with pytest.raises(DataError, match="here is a conversation, and this tokenizer has no"):
        loaded.encode(Document(segments(CHAT), "here"))


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("tokenizer.json", "{", CheckpointError, "Expected JSON in .*tokenizer.json"),
        ("tokenizer.json", "{}", TokenizerError, "is not sound"),
        (
            "tokenizer.json",
            '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}}',
            UnsupportedError,
            "BPE",
        ),
        ("tokenizer.bin", "abc", CheckpointError, "tokenizer.bin is no tokenizer; give a tokenizer.json"),
    ],
)
def test_files_that_are_no_tokenizers(
    tmp_path: Path, name: str, content: str, error: type[Exception], sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=sentence):
        load_vocabulary(tmp_path / name)


def test_missing_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(CheckpointError, match=r"did you mean .*tokenizer\.json\?"):
        load_vocabulary(tmp_path / "tokeniser.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_vocabulary(tmp_path / "empty")


def test_the_vocabulary_of_a_gguf(tmp_path: Path) -> None:
    path = toys.toy_gguf(tmp_path / "toy.gguf")
    loaded = load_vocabulary(path)
    with open_gguf(path) as reader:
        engine = Tokenizer.from_metadata(reader.metadata)
    assert loaded.size == engine.n_vocab
    words = "Hello fire. e\u0301 <|im_end|> 12"
    assert loaded.encode(text(words))[0][:-1] == engine.encode(words, add_special=False)


@pytest.mark.parametrize("name", ["ggml-vocab-gpt-2", "ggml-vocab-llama-spm", "ggml-vocab-gpt-neox"])
def test_published_vocabularies(name: str, tmp_path: Path) -> None:
    path = shared(f"tokenizers/{name}.gguf")
    loaded = load_vocabulary(path)
    with open_gguf(path) as reader:
        engine = Tokenizer.from_metadata(reader.metadata)
    assert loaded.size == engine.n_vocab
    for words in CORPUS[:3]:
        expected = engine.encode(words, add_special=False)
        assert loaded.encode(text(words))[0][loaded.begin_id is not None : -1] == expected
        normal = unicodedata.normalize("NFC", words) == words  # this one brings texts to form C, and says so
        assert loaded.round_trips(text(words), loaded.encode(text(words))[0]) == (normal or "neox" not in name)
    assert (loaded.begin_id is not None) == ("llama" in name)
    loaded.save(tmp_path / "tokenizer.json")
    again = load_vocabulary(tmp_path)
    assert (again.digest, again.begin_id, again.end_id) == (loaded.digest, loaded.begin_id, loaded.end_id)


def test_real_text_comes_back() -> None:
    path = shared("text/tinystories_train_first2MiB_cased.txt")
    from ingle.train.data.sources import Source, read_documents

    documents: list[Any] = list(read_documents(Source(str(path))))[:300]
    vocabulary = train_tokenizer((document.text for document in documents), 1024)
    assert vocabulary.n_unused == 0
    for document, (ids, _) in zip(documents, vocabulary.encode_batch(documents), strict=True):
        assert vocabulary.round_trips(document, ids)
