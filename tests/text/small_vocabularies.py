"""Small vocabularies whose tokens stand across the borders of JSON's words, for tests of grammars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ingle.text import Tokenizer


def byte_level_tokenizer(byte_level: Callable[..., dict[str, object]], **kinds: Any) -> Tokenizer:
    merges = ('{ "', '" :', '" }', "t i", "ti m", "tim e", 'Ġ "', ", Ġ", '": Ġ"', "\u00c3 \u00a9", "} }")
    return Tokenizer.from_metadata(
        byte_level(merges, **{"control": ("<|end|>", "<|user|>"), "eos_token_id": 0, **kinds})
    )


def spm_tokenizer(*, prefix: bool = True, added: tuple[str, ...] = ()) -> Tokenizer:
    pieces = [
        "▁",
        "▁{",
        '▁{"',
        '{"',
        '":',
        '"}',
        "ti",
        "tim",
        "time",
        "▁time",
        '▁"',
        "▁t",
        *'abcdefghij{}":,.é',
        *added,
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    n_plain = len(pieces) - len(added)
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(pieces))],
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * n_plain + [4] * len(added),
            "tokenizer.ggml.add_space_prefix": prefix,
        }
    )
