"""Small vocabularies for the tests of text, and the real ones that lie beside the checkout."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ingle.text.bpe import byte_letters
from shared_data import shared

#: Fragments that tokenizers are known to stumble over.
FRAGMENTS = [
    *(
        "hello",
        " ",
        "  ",
        "     ",
        "\n",
        "\n\n  ",
        "\t",
        "\r\n",
        "\u2581",
        "\u2581\u2581",
        "The quick",
        "1234",
        "'s",
        "'LL",
    ),
    *("\u00e9", "e\u0301", "\u4e2d\u6587\u5b57", "\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u200b"),
    *(
        "\x00",
        "\x07",
        "\u00df",
        "\u0130",
        "<s>",
        "</s>",
        "[INST]",
        "<0x0A>",
        "<unk>",
        "[REFERENCE_DOC_3]",
        "[control_8]",
    ),
    *(
        "\u0627\u0644\u0633",
        "\u3000",
        "\u00a0",
        "...",
        "!!!",
        "ing",
        "tion",
        "\U0001f1e9\U0001f1ea",
        "aaaaaaa",
        "----",
        "x=1;",
    ),
]


@pytest.fixture(scope="session")
def folder() -> Path:
    """Published vocabularies."""
    return shared("tokenizers")


@pytest.fixture(scope="session")
def texts() -> st.SearchStrategy[str]:
    """Texts of all kinds of characters but lone surrogates, mixed with awkward fragments."""
    characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    return st.lists(st.sampled_from(FRAGMENTS) | characters, max_size=16).map("".join)


@pytest.fixture(scope="session")
def byte_level() -> Callable[..., dict[str, object]]:
    """Makes the metadata of a byte-level vocabulary: 256 bytes, the merges' tokens, user-defined and control tokens."""

    def make(
        merges: tuple[str, ...] = (), control: tuple[str, ...] = (), added: tuple[str, ...] = (), **extra: object
    ) -> dict[str, object]:
        letters = [*byte_letters(), *(merge.replace(" ", "") for merge in merges)]
        metadata: dict[str, object] = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": [*letters, *added, *control],
            "tokenizer.ggml.token_type": [1] * len(letters) + [4] * len(added) + [3] * len(control),
            "tokenizer.ggml.merges": list(merges),
        }
        return metadata | {f"tokenizer.{'' if key == 'chat_template' else 'ggml.'}{key}": v for key, v in extra.items()}

    return make


@pytest.fixture(scope="session")
def spm_file() -> Callable[..., bytes]:
    """Makes a SentencePiece model file from (token, score, type) and settings of the trainer and the normalizer."""

    def varint(value: int) -> bytes:
        out = b""
        while value > 0x7F:
            out += bytes((value & 0x7F | 0x80,))
            value >>= 7
        return out + bytes((value,))

    def field(number: int, value: Any) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value % (1 << 64))
        if isinstance(value, float):
            return varint(number << 3 | 5) + struct.pack("<f", value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    def make(
        pieces: list[tuple[str, float, int]], *, prefix: bool = True, squeeze: bool = False, kind: int = 2
    ) -> bytes:
        messages = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, k)) for t, s, k in pieces)
        bytes_present = any(k == 6 for _, _, k in pieces)
        trainer = field(3, kind) + field(35, int(bytes_present)) + field(43, -1)
        normalizer = field(1, b"identity") + field(3, int(prefix)) + field(4, int(squeeze)) + field(5, 1)
        return messages + field(2, trainer) + field(3, normalizer)

    return make
