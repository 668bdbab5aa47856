"""Hugging Face directories to GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingle.errors import CheckpointError, UnsupportedError
from ingle.text import Tokenizer, metadata_from_hf
from ingle.text.sentencepiece_file import read_sentencepiece

SPACE = "\u2581"
BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
WORDS = ["he", "ll", "llo", SPACE + "he", SPACE + "hello", "hello", SPACE + SPACE, "lo", SPACE + "l", "oh"]
PIECES = [
    *[("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *BYTES],
    *[(word, -float(i), 1) for i, word in enumerate(WORDS)],
    *[(letter, -100.0 - i, 1) for i, letter in enumerate(f"helo{SPACE}")],
]
GGML = "tokenizer.ggml."


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        name = name.replace("__", ".")
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def spm_json(**changes: Any) -> dict[str, Any]:
    """The tokenizer.json that PIECES become: merges by score, then spaces as U+2581 and one in front."""
    vocabulary = {text: i for i, (text, _, _) in enumerate(PIECES)}
    merges = [
        [word[:cut], word[cut:]]
        for word in WORDS  # in the order of their scores
        for cut in range(1, len(word))
        if word[:cut] in vocabulary and word[cut:] in vocabulary
    ]
    specials = [{"id": i, "content": t, "special": True} for i, t in enumerate(("<unk>", "<s>", "</s>"))]
    normalizers = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    return {
        "added_tokens": specials,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "byte_fallback": True, "unk_token": "<unk>"},
    } | changes


CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}


def test_scores_from_merges_do_what_sentencepiece_does(spm_file: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(spm_file(PIECES))
    from_model = Tokenizer.from_metadata(metadata_from_hf(tmp_path))
    (tmp_path / "tokenizer.model").unlink()
    metadata = metadata_from_hf(write(tmp_path, tokenizer__json=spm_json(), tokenizer_config__json=CONFIG))
    from_json = Tokenizer.from_metadata(metadata)
    assert metadata[GGML + "model"] == "llama"
    assert from_json.add_bos
    assert (from_json.bos_id, from_json.eos_id) == (1, 2)

    @settings(deadline=None)
    @given(st.text("helo \u00e9", max_size=20))
    def check(text: str) -> None:
        assert from_json.encode(text) == from_model.encode(text)

    check()


def test_merges_without_scores_are_kept_as_merges(tmp_path: Path) -> None:
    file = spm_json(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    file["model"]["merges"].pop()
    metadata = metadata_from_hf(write(tmp_path, tokenizer__json=file, tokenizer_config__json=CONFIG))
    assert metadata[GGML + "model"] == "gemma4"
    assert (
        Tokenizer.from_metadata(metadata).decode(Tokenizer.from_metadata(metadata).encode("hello h")[1:]) == "hello h"
    )
    file["normalizer"] = spm_json()["normalizer"]
    with pytest.raises(UnsupportedError, match=r"tokenizer\.model"):
        metadata_from_hf(write(tmp_path, tokenizer__json=file))


@pytest.fixture
def directory(spm_file: Callable[..., bytes], tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(spm_file(PIECES, prefix=False, squeeze=True))
    return write(tmp_path, tokenizer_config__json=CONFIG)


def test_settings_of_a_sentencepiece_file(directory: Path) -> None:
    metadata = metadata_from_hf(directory)
    assert metadata[GGML + "add_space_prefix"] is False
    assert metadata[GGML + "remove_extra_whitespaces"] is True
    assert (metadata[GGML + "add_bos_token"], metadata[GGML + "add_eos_token"]) == (True, False)
    write(directory, tokenizer_config__json=CONFIG | {"add_bos_token": False, "add_eos_token": True})
    metadata = metadata_from_hf(directory)
    assert (metadata[GGML + "add_bos_token"], metadata[GGML + "add_eos_token"]) == (False, True)


def test_padding_up_to_the_embedding(directory: Path) -> None:
    metadata = metadata_from_hf(directory, n_vocab=len(PIECES) + 2)
    tokens = metadata[GGML + "tokens"]
    assert isinstance(tokens, list)
    assert tokens[-2:] == [f"[PAD{len(PIECES)}]", f"[PAD{len(PIECES) + 1}]"]
    assert [len(metadata[GGML + key]) for key in ("token_type", "scores")] == [len(tokens)] * 2  # type: ignore[arg-type]
    assert Tokenizer.from_metadata(metadata).n_vocab == len(PIECES) + 2
    with pytest.raises(CheckpointError, match=f"at most 10 tokens.*found {len(PIECES)}"):
        metadata_from_hf(directory, n_vocab=10)


def test_added_tokens(directory: Path) -> None:
    n = len(PIECES)
    decoder = {str(n): {"content": "<|im_end|>", "special": True}, str(n + 1): {"content": "<think>", "special": False}}
    write(
        directory,
        tokenizer_config__json=CONFIG | {"added_tokens_decoder": decoder},
        added_tokens__json={"<late>": n + 2, "hello": n + 3, "</s>": 2},
    )
    metadata = metadata_from_hf(directory, n_vocab=n + 4)
    types, tokens = metadata[GGML + "token_type"], metadata[GGML + "tokens"]
    assert isinstance(types, list)
    assert isinstance(tokens, list)
    assert types[n:] == [3, 4, 4, 4]
    assert types[:3] == [2, 3, 3]
    assert tokens.count("hello") == 1  # the added token has taken the place of the other
    assert Tokenizer.from_metadata(metadata).eog_ids == {2, n}
    assert len(metadata_from_hf(directory, n_vocab=n + 1)[GGML + "tokens"]) == n + 1  # type: ignore[arg-type]


def test_end_tokens_from_generation_config(directory: Path) -> None:
    write(directory, generation_config__json={"eos_token_id": [2, 260, 261]}, config__json={"eos_token_id": 2})
    metadata = metadata_from_hf(directory)
    assert [metadata[f"{GGML}{name}_token_id"] for name in ("eos", "eot", "eom")] == [2, 260, 261]
    assert Tokenizer.from_metadata(metadata).eog_ids == {2, 260, 261}


@pytest.mark.parametrize(
    ("value", "file", "expected"),
    [
        ("T", None, {"tokenizer.chat_template": "T"}),
        ("T", "file", {"tokenizer.chat_template": "file"}),
        (None, None, {}),
        (
            [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}],
            None,
            {"tokenizer.chat_template": "D", "tokenizer.chat_template.tool_use": "U"},
        ),
    ],
)
def test_chat_templates(directory: Path, value: object, file: str | None, expected: dict[str, str]) -> None:
    write(directory, tokenizer_config__json=CONFIG | {"chat_template": value})
    if file is not None:
        (directory / "chat_template.jinja").write_text(file)
    metadata = metadata_from_hf(directory)
    assert {key: v for key, v in metadata.items() if key.startswith("tokenizer.chat_template")} == expected


def test_values_are_plain(directory: Path) -> None:
    json.dumps(metadata_from_hf(directory))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, CheckpointError, r"tokenizer\.json or tokenizer\.model"),
        ({"tokenizer__json": "{"}, CheckpointError, r"JSON in tokenizer\.json"),
        ({"tokenizer__json": "[" * 100_000}, CheckpointError, r"JSON in tokenizer\.json"),
        ({"tokenizer__json": "[1]"}, CheckpointError, "JSON object"),
        ({"tokenizer__json": {"model": {"type": "WordPiece"}}}, UnsupportedError, "WordPiece"),
        ({"tokenizer__json": {"model": 3}}, UnsupportedError, "only BPE"),
        ({"tokenizer__json": {"model": {"vocab": []}}}, CheckpointError, "tokens with their ids"),
        ({"tokenizer__json": {"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}}, CheckpointError, "one id twice"),
        ({"tokenizer__json": {"model": {"vocab": {"a": -1}, "merges": []}}}, CheckpointError, "ids from 0"),
        ({"tokenizer__json": {"model": {"vocab": {"a": 2**40}, "merges": []}}}, CheckpointError, "ids from 0"),
        ({"tokenizer__json": {"model": {"vocab": {"a": 0}}}}, CheckpointError, "list of merges"),
        ({"tokenizer__json": {"model": {"vocab": {"a": 0}, "merges": ["a"]}}}, CheckpointError, "two tokens"),
        ({"tokenizer__json": {"model": {"vocab": {"a": 0}, "merges": [["a", 1]]}}}, CheckpointError, "two tokens"),
        ({"tokenizer__json": spm_json(normalizer={"type": "Lowercase"})}, UnsupportedError, "Lowercase"),
        ({"tokenizer__json": spm_json(added_tokens=[{"id": "x", "content": "y"}])}, CheckpointError, "added tokens"),
        (
            {"tokenizer__json": spm_json(pre_tokenizer={"type": "ByteLevel"}, normalizer={"type": "NFKC"})},
            UnsupportedError,
            "NFKC",
        ),
        (
            {
                "tokenizer__json": spm_json(
                    normalizer=None,
                    pre_tokenizer={
                        "type": "Sequence",
                        "pretokenizers": [
                            {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "x+"}},
                            {"type": "ByteLevel", "use_regex": False},
                        ],
                    },
                )
            },
            UnsupportedError,
            r"'x\+'",
        ),
    ],
)
def test_faults(tmp_path: Path, files: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metadata_from_hf(write(tmp_path, **files))


def test_other_sentencepiece_models_are_refused(spm_file: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(spm_file(PIECES, kind=1))
    with pytest.raises(UnsupportedError, match="unigram"):
        metadata_from_hf(tmp_path)


def test_a_sentencepiece_file_that_is_cut_off(spm_file: Callable[..., bytes]) -> None:
    """Every beginning of a file is either refused, or ends between two fields and has fewer tokens."""
    data = spm_file(PIECES[:20])
    for end in range(len(data)):
        try:
            model = read_sentencepiece(data[:end])
        except CheckpointError:
            continue
        assert 0 < len(model.pieces) <= 20


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_sentencepiece_file(data: bytes) -> None:
    try:
        model = read_sentencepiece(data)
    except CheckpointError:
        return
    assert model.pieces
    assert len(model.pieces) == len(model.scores) == len(model.types) <= len(data)
