"""Byte-level BPE (`tokenizer.ggml.model` = "gpt2"): GPT-2, Llama 3, Qwen, SmolLM and most newer vocabularies.

The merging is done by the `tokenizers` package (Rust); here its model is put together from what GGUF holds.
Source: Radford et al. 2019 (GPT-2) for the letters that stand for bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from ingle.errors import TokenizerError
from ingle.text.finder import TokenFinder
from ingle.text.pretokenizers import BYTE_LEVEL, PreTokenizer
from ingle.text.spm import SPACE
from ingle.text.vocabulary import TokenType, Vocabulary

__all__ = ["ByteLevelModel", "byte_letters"]


def byte_letters() -> list[str]:
    """The letter that stands for each byte: itself where it can be printed, else one from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(byte_letters())}


class ByteLevelModel:
    """Text to ids and token to bytes for a vocabulary with merges.

    Raises TokenizerError if merges and vocabulary disagree.
    """

    def __init__(self, vocabulary: Vocabulary, merges: Iterable[Any], row: PreTokenizer, *, space_prefix: bool) -> None:
        self.space_prefix = False  # nothing to take away in decoding: the space is part of the text here
        self._leading_space = space_prefix
        self._nfc = row.nfc
        self._raw = row.raw
        added = vocabulary.of_type(TokenType.USER_DEFINED)
        self._added = TokenFinder(added)
        self._plain = frozenset(i for i, kind in enumerate(vocabulary.types) if kind != TokenType.NORMAL)
        byte_ids = vocabulary.byte_ids() or [] if row.raw else []
        self._byte_of = {token_id: bytes((value,)) for value, token_id in enumerate(byte_ids)}
        try:
            model = models.BPE(
                vocab=vocabulary.ids,
                merges=_pairs(merges),
                ignore_merges=row.ignore_merges,
                byte_fallback=row.raw,
                unk_token=None if vocabulary.unk_id is None else vocabulary.tokens[vocabulary.unk_id],
                fuse_unk=row.raw,
            )
        except Exception as error:  # the package has no class of its own for a merge outside the vocabulary
            raise TokenizerError(
                f"The merges do not fit the vocabulary ({error}); the file needs converting anew."
            ) from None
        self._tokenizer = Tokenizer(model)
        if row.raw:
            self._tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        self._tokenizer.pre_tokenizer = _steps(row)

    def encode(self, text: str) -> list[int]:
        """The ids of a text without control tokens."""
        if self._nfc and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        if self._leading_space and text and not text[0].isspace():
            text = " " + text
        ids: list[int] = []
        for part in self._added.split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._tokenizer.encode(part, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token_id: int, text: str) -> bytes:
        """What a token adds to the output, as UTF-8, possibly a part of a character."""
        if self._raw:
            return self._byte_of.get(token_id) or text.replace(SPACE, " ").encode()
        if token_id not in self._plain:
            try:
                return bytes(map(_BYTE_OF_LETTER.__getitem__, text))
            except KeyError:
                pass  # a token with other letters was added later, and means what it says
        return text.encode()


def _steps(row: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    splits = row.splits if row.raw or BYTE_LEVEL in row.splits else (*row.splits, BYTE_LEVEL)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            if split == BYTE_LEVEL
            else pre_tokenizers.Split(Regex(split), "isolated")
            for split in splits
        ]
    )


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    try:
        # From the second letter on: the first may itself be a space.
        return [(text[:cut], text[cut + 1 :]) for text in merges if (cut := text.index(" ", 1))]
    except (AttributeError, TypeError, ValueError, IndexError):
        raise TokenizerError(
            "Expected merges of the form 'left right' in tokenizer.ggml.merges, found something else."
        ) from None
