"""llama.cpp's test vectors: inputs and the ids it gives for them, without special tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingle.gguf import open_gguf
from ingle.text import Tokenizer


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])
def test_ids_are_those_of_llama_cpp(folder: Path, name: str) -> None:
    path = folder / f"ggml-vocab-{name}.gguf"
    with path.with_name(path.name + ".inp").open(encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    expected = path.with_name(path.name + ".out").read_text().split("\n")
    assert len(texts) == len(expected) > 40
    with open_gguf(path) as gguf:
        tokenizer = Tokenizer.from_metadata(gguf.metadata)
        for text, ids in zip(texts, expected, strict=True):
            assert tokenizer.encode(text, add_special=False) == [int(i) for i in ids.split()], text
            assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
        assert tokenizer.encode("", add_special=True) == ([1] if name == "llama-spm" else [])
