"""Byte-level vocabularies, against the `tokenizers` package with the models' published pipelines."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from ingle.errors import UnsupportedError
from ingle.gguf import open_gguf
from ingle.text import Tokenizer, metadata_from_hf
from ingle.text.pretokenizers import PRE_TOKENIZERS

quick = settings(deadline=None, max_examples=150)

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
HEAD = r"[^\r\n\p{L}\p{N}]?"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
TEKKEN = (
    f"{HEAD}{UPPER}*{LOWER}+|{HEAD}{UPPER}+{LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    f"{HEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{HEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


def split(regex: str, **options: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} | options


def byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


DIGITS = {"type": "Digits", "individual_digits": True}
#: As in the tokenizer.json of the models: (the name GGUF has for it, steps, normalizer, ignore_merges).
PUBLISHED: list[tuple[str, list[dict[str, Any]], str | None, bool]] = [
    ("gpt-2", [byte_level(True)], None, False),
    ("olmo", [byte_level(True)], "NFC", False),
    ("smollm", [DIGITS, byte_level(True)], None, False),
    ("command-r", [DIGITS, byte_level(True)], "NFC", False),
    ("llama-bpe", [split(LLAMA3), byte_level(False)], None, True),
    ("dbrx", [split(CL100K, behavior="Removed", invert=True), byte_level(False)], None, False),
    ("qwen2", [split(LLAMA3.replace("{1,3}", "")), byte_level(False)], "NFC", False),
    ("stablelm2", [split(LLAMA3.replace("{1,3}", "")), byte_level(False)], None, False),
    ("tekken", [split(TEKKEN), byte_level(False)], None, True),
    ("gpt-4o", [split(GPT4O), byte_level(False)], None, False),
    (
        "falcon",
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(True),
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ],
        None,
        False,
    ),
    (
        "deepseek-coder",
        [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK), DIGITS, byte_level(False)],
        None,
        False,
    ),
    (
        "deepseek-v3",
        [
            split(r"\p{N}{1,3}"),
            split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            split(DEEPSEEK_V3),
            byte_level(False),
        ],
        None,
        False,
    ),
]


@pytest.fixture(scope="module")
def bpe() -> dict[str, Any]:
    """A model whose merges reach across spaces, digits and punctuation, so that a wrong cut gives other ids."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = [
        "hello 's'LL  the quick 12345 x=1;\n\n  \u4e2d\u6587 e\u0301!!!... \U0001f600 aA Hello HeLLo 1a2 \t\r\n"
    ] * 9
    trained.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    model: dict[str, Any] = json.loads(trained.to_str())["model"]
    return model


@pytest.mark.parametrize(("name", "steps", "normalizer", "ignore_merges"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_published_pipelines(
    tmp_path: Path,
    texts: st.SearchStrategy[str],
    bpe: dict[str, Any],
    name: str,
    steps: list[dict[str, Any]],
    normalizer: str | None,
    ignore_merges: bool,
) -> None:
    """Each pipeline is recognised, and what GGUF's name for it makes is the same as the pipeline itself."""
    pipeline = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": normalizer} if normalizer else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0],
        "post_processor": None,
        "decoder": byte_level(True),
        "model": bpe | {"ignore_merges": ignore_merges},
    }
    text = json.dumps(pipeline)
    (tmp_path / "tokenizer.json").write_text(text)
    metadata = metadata_from_hf(tmp_path)
    assert metadata["tokenizer.ggml.pre"] == name
    tokenizer, reference = Tokenizer.from_metadata(metadata), tokenizers.Tokenizer.from_str(text)

    @quick
    @given(texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special=False)
        assert ids == reference.encode(text).ids
        assert tokenizer.decode(ids) == (unicodedata.normalize("NFC", text) if normalizer else text)

    check()


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_every_byte_level_row_gives_every_text_back(
    byte_level: Callable[..., dict[str, object]], texts: st.SearchStrategy[str], name: str
) -> None:
    row = PRE_TOKENIZERS[name]
    if row.raw:
        metadata = byte_level(model="gemma4", bos_token_id=256 + 300, **raw_vocabulary())
    else:
        metadata = byte_level(("h e", "l l", "\u0120 \u0120"), ("<bos>",), pre=name, bos_token_id=259)
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.add_bos == row.add_bos

    @settings(quick, max_examples=40)
    @given(texts)
    def check(text: str) -> None:
        written = tokenizer.decode(tokenizer.encode(text), skip_special=True)
        expected = unicodedata.normalize("NFC", text) if row.nfc else text
        assert written == (expected.replace("\u2581", " ") if row.raw else expected)

    check()


def raw_vocabulary() -> dict[str, object]:
    letters = [chr(c) for c in range(0x20, 0x14C)]
    letters[0] = "\u2581"
    return {
        "tokens": [*(f"<0x{byte:02X}>" for byte in range(256)), *letters, "<bos>", "he", "\u2581he"],
        "token_type": [6] * 256 + [1] * 300 + [3, 1, 1],
        "merges": ["h e", "\u2581 he"],
    }


def test_raw_vocabularies_have_spaces_as_letters_and_the_rest_as_bytes(
    byte_level: Callable[..., dict[str, object]],
) -> None:
    metadata = byte_level(model="gemma4", bos_token_id=556, **raw_vocabulary())
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("he he\n") == [556, 557, 558, 0x0A]


def test_gpt_neox(folder: Path, texts: st.SearchStrategy[str], tmp_path: Path) -> None:
    """From GGUF and from tokenizer.json, both as the package has it: NFC, and runs of spaces as added tokens."""
    path = folder / "gpt-neox-20B_tokenizer.json"
    reference = tokenizers.Tokenizer.from_file(str(path))
    reference.encode_special_tokens = True  # ours does not take "<|endoftext|>" in a text for the token either
    shutil.copy(path, tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 0}')
    converted = Tokenizer.from_metadata(metadata_from_hf(tmp_path, n_vocab=50432))
    with open_gguf(folder / "ggml-vocab-gpt-neox.gguf") as gguf:
        published = Tokenizer.from_metadata(gguf.metadata)
    assert converted.n_vocab == published.n_vocab == 50432
    assert converted.eog_ids == published.eog_ids == {0}

    @quick
    @given(texts)
    def check(text: str) -> None:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert published.encode(text) == expected
        assert converted.encode(text) == expected

    check()


def test_gpt2_from_its_own_files(folder: Path, texts: st.SearchStrategy[str], tmp_path: Path) -> None:
    shutil.copy(folder / "gpt2_encoder.json", tmp_path / "vocab.json")
    shutil.copy(folder / "gpt2_vocab.bpe", tmp_path / "merges.txt")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}')
    converted = Tokenizer.from_metadata(metadata_from_hf(tmp_path))
    reference = tokenizers.ByteLevelBPETokenizer(str(folder / "gpt2_encoder.json"), str(folder / "gpt2_vocab.bpe"))
    with open_gguf(folder / "ggml-vocab-gpt-2.gguf") as gguf:
        published = Tokenizer.from_metadata(gguf.metadata)
    end = published.eos_id
    assert published.encode("a<|endoftext|>", parse_special=True)[-1] == converted.eos_id == end == 50256
    assert end not in published.encode("a<|endoftext|>") + converted.encode("a<|endoftext|>")

    @quick
    @given(texts)
    def check(text: str) -> None:
        ids = converted.encode(text)
        assert ids == published.encode(text) == reference.encode(text).ids
        assert converted.decode(ids) == text

    check()


def test_added_tokens_are_found_in_text_longest_first(byte_level: Callable[..., dict[str, object]]) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(added=("<a>", "<a><b>", "\u4e2d")))
    assert tokenizer.encode("<a><b><a>\u4e2d") == [257, 256, 258]
    assert tokenizer.decode([257, 256, 258]) == "<a><b><a>\u4e2d"


def test_half_a_surrogate_pair_becomes_a_replacement_character(byte_level: Callable[..., dict[str, object]]) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level())
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "\U0001f600"


def test_an_unknown_pre_tokenizer_is_named_with_the_known_ones(byte_level: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(UnsupportedError, match=r"'new-one' is not supported; known are .*llama-bpe.*qwen2"):
        Tokenizer.from_metadata(byte_level(pre="new-one"))
