"""A file's tokenizer is checked before it is used; each fault is one sentence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ingle.errors import TokenizerError, UnsupportedError
from ingle.text import Tokenizer

SPM: dict[str, object] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
}
GGML = "tokenizer.ggml."


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", None, "no tokenizer"),
        ("model", "no_vocab", "no tokenizer"),
        ("tokens", None, "tokenizer.ggml.tokens"),
        ("tokens", "abcdef", "tokenizer.ggml.tokens"),
        ("tokens", [], "empty"),
        ("tokens", ["<unk>", "<s>", "</s>", "a", "b", 7], "Expected strings"),
        ("tokens", ["<unk>", "<s>", "</s>", "a", "b", "a"], "'a' twice"),
        ("tokens", range((1 << 22) + 1), "at most 4194304 tokens"),
        ("scores", None, "tokenizer.ggml.scores with 6 numbers"),
        ("scores", [0.0] * 5, "Expected 6 entries in tokenizer.ggml.scores.*found 5"),
        ("scores", [0.0] * 5 + [float("nan")], "finite"),
        ("scores", ["x"] * 6, "Expected numbers"),
        ("token_type", [1] * 7, "Expected 6 entries in tokenizer.ggml.token_type"),
        ("token_type", [2, 3, 3, 1, 1, 9], "from 0 to 6, found 1 to 9"),
        ("token_type", [2, 3, 3, 1, 1, -1], "from 0 to 6, found -1"),
        ("token_type", [2, 3, 3, 1, 1, 6], "token 5 is a byte token"),
        ("bos_token_id", 6, "Expected an id below 6 in tokenizer.ggml.bos_token_id, found 6"),
        ("eos_token_id", 2**32 - 1, "found 4294967295"),
        ("eot_token_id", -1, "found -1"),
        ("bos_token_id", "x", "Expected a token id"),
    ],
)
def test_faults_in_a_sentencepiece_vocabulary(key: str, value: object, message: str) -> None:
    Tokenizer.from_metadata(SPM)
    metadata = {**SPM, GGML + key: value}
    if value is None:
        del metadata[GGML + key]
    with pytest.raises(TokenizerError, match=f"(?i){message}") as caught:
        Tokenizer.from_metadata(metadata)
    assert "\n" not in str(caught.value)


def test_some_byte_tokens_are_not_enough() -> None:
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0x0B>", "ab"]
    with pytest.raises(TokenizerError, match="256 byte tokens or none, found 2"):
        Tokenizer.from_metadata({**SPM, GGML + "tokens": tokens, GGML + "token_type": [2, 3, 3, 6, 6, 1]})


def test_a_vocabulary_must_have_a_way_to_write_unknown_characters() -> None:
    with pytest.raises(TokenizerError, match="unknown token"):
        Tokenizer.from_metadata(
            {"tokenizer.ggml.model": "llama", GGML + "tokens": [], GGML + "scores": []} | _without_unknown()
        )


def _without_unknown() -> dict[str, object]:
    # The default unknown id is 0; a vocabulary can only lack it by having another kind of token there.
    return {GGML + "tokens": ["a", "<s>", "</s>"], GGML + "scores": [0.0] * 3, GGML + "token_type": [1, 3, 3]}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"merges": None}, "tokenizer.ggml.merges"),
        ({"merges": ["ab"]}, "form 'left right'"),
        ({"merges": [3]}, "form 'left right'"),
        ({"merges": ["a \u4e2d"]}, "do not fit the vocabulary"),
        ({"merges": ["a b"]}, "do not fit the vocabulary"),
        ({"add_bos_token": True}, "no tokenizer.ggml.bos_token_id"),
        ({"add_eos_token": True}, "no tokenizer.ggml.eos_token_id"),
    ],
)
def test_faults_in_a_byte_level_vocabulary(
    byte_level: Callable[..., dict[str, object]], extra: dict[str, object], message: str
) -> None:
    metadata = byte_level(("a a",)) | {GGML + key: value for key, value in extra.items()}
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_metadata({key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize("kind", ["bert", "t5", "rwkv", 5])
def test_other_kinds_of_tokenizers_are_refused_by_name(kind: object) -> None:
    with pytest.raises(UnsupportedError, match=f"{kind!r} is not supported; known are gemma4, gpt2 and llama"):
        Tokenizer.from_metadata({**SPM, GGML + "model": kind})


def test_a_vocabulary_that_rewrites_characters_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="charsmap"):
        Tokenizer.from_metadata({**SPM, GGML + "precompiled_charsmap": np.zeros(4, np.uint8)})


def test_arrays_may_come_from_numpy() -> None:
    arrays = {key: np.array(value) for key, value in SPM.items() if isinstance(value, list) and "tokens" not in key}
    tokenizer = Tokenizer.from_metadata({**SPM, **arrays, GGML + "bos_token_id": np.uint32(1)})
    assert tokenizer.encode("ab") == Tokenizer.from_metadata(SPM).encode("ab")
    assert type(tokenizer.bos_id) is int


def test_files_older_than_token_types() -> None:
    metadata = {key: value for key, value in SPM.items() if "token_type" not in key}
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("<s>", add_special=False) != [1]
    assert tokenizer.encode("<s>", add_special=False, parse_special=True) == [1]


def test_empty_tokens_keep_their_ids() -> None:
    tokens = ["<unk>", "<s>", "</s>", "", "b", ""]
    tokenizer = Tokenizer.from_metadata({**SPM, GGML + "tokens": tokens})
    assert tokenizer.token_text(5) == "[EMPTY_5]"
    assert tokenizer.token_id("b") == 4


@pytest.mark.parametrize("token_id", [-1, 6, 10**9])
def test_ids_outside_the_vocabulary(token_id: int) -> None:
    with pytest.raises(TokenizerError, match=f"below 6, got {token_id}"):
        Tokenizer.from_metadata(SPM).decode([3, token_id])


def test_what_ends_a_generation(byte_level: Callable[..., dict[str, object]]) -> None:
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<other>")
    tokenizer = Tokenizer.from_metadata(byte_level(control=control, eos_token_id=259))
    assert tokenizer.eog_ids == {256, 258, 259}
    assert tokenizer.is_control(257)


def test_turn_markers_are_control_tokens_whatever_the_file_says(byte_level: Callable[..., dict[str, object]]) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(added=("<|im_end|>", "<think>")))
    assert tokenizer.encode("<|im_end|><think>")[-1] == 257
    assert 256 not in tokenizer.encode("<|im_end|>")
    assert tokenizer.encode("<|im_end|>", parse_special=True) == [256]
    assert tokenizer.eog_ids == {256}
