"""Text to token ids and back, from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ingle.errors import TokenizerError, UnsupportedError
from ingle.text.bpe import ByteLevelModel
from ingle.text.finder import TokenFinder
from ingle.text.pretokenizers import pre_tokenizer
from ingle.text.spm import SentencePieceModel
from ingle.text.stream import TextStream
from ingle.text.vocabulary import TokenType, Vocabulary

__all__ = ["Tokenizer"]


class TextModel(Protocol):
    """What differs between kinds of vocabularies: ordinary text to ids, and the bytes of a token."""

    space_prefix: bool

    def encode(self, text: str) -> list[int]: ...

    def token_bytes(self, token_id: int, text: str) -> bytes: ...


class Tokenizer:
    """A model's tokenizer.

    Text is first cut at control tokens, if the caller allows them, then each stretch between them is encoded as
    ordinary text. Ordinary text can never become a control token, so a prompt cannot pose as the system.
    """

    def __init__(self, vocabulary: Vocabulary, model: TextModel, *, rstrip_control: bool = False) -> None:
        self._vocabulary = vocabulary
        self._model = model
        self._control = vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN)
        self._control_ids = frozenset(self._control.values())
        # A single character cannot be told from text, nor broken by a marker.
        self._finder = TokenFinder({text: token_id for text, token_id in self._control.items() if len(text) > 1})
        self._rstrip_control = rstrip_control
        self._whole: dict[int, str | None] = {}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """Build the tokenizer from the `tokenizer.ggml.*` keys of a GGUF file.

        Arrays may be lists, numpy arrays or other sequences. Raises TokenizerError if they are missing or do not fit
        together, UnsupportedError for a kind of tokenizer that Ingle does not have.
        """
        kind = metadata.get("tokenizer.ggml.model")
        if kind is None or kind in ("no_vocab", "none"):
            raise TokenizerError("This file has no tokenizer (tokenizer.ggml.model); use a file that holds one.")
        model: TextModel
        if kind == "llama":
            if metadata.get("tokenizer.ggml.precompiled_charsmap") is not None:
                raise UnsupportedError(
                    "This SentencePiece vocabulary rewrites characters (charsmap), which is not supported."
                )
            vocabulary = Vocabulary.from_metadata(metadata, scored=True, bos=1, eos=2, unk=0, add_bos=True)
            model = SentencePieceModel(
                vocabulary,
                space_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
                squeeze_spaces=bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
            )
        elif kind in ("gpt2", "gemma4"):
            name = "gemma4" if kind == "gemma4" else metadata.get("tokenizer.ggml.pre")
            row = pre_tokenizer(None if name is None else str(name), metadata.get("general.architecture"))
            vocabulary = Vocabulary.from_metadata(
                metadata, scored=False, bos=None, eos=None, unk=None, add_bos=row.add_bos
            )
            merges = metadata.get("tokenizer.ggml.merges")
            if not isinstance(merges, Iterable) or isinstance(merges, (str, bytes)):
                raise TokenizerError("Expected the key tokenizer.ggml.merges with the merges, found none in this file.")
            space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", False))
            model = ByteLevelModel(vocabulary, merges, row, space_prefix=space_prefix)
        else:
            raise UnsupportedError(f"The tokenizer model {kind!r} is not supported; known are gemma4, gpt2 and llama.")
        # Phi-3 was trained with whitespace after its control tokens removed, and GGUF has no key to say so.
        phi3 = kind == "llama" and metadata.get("general.architecture") == "phi3"
        return cls(vocabulary, model, rstrip_control=phi3)

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return len(self._vocabulary.tokens)

    @property
    def bos_id(self) -> int | None:
        """The token at the beginning of a text, if there is one."""
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        """The token at the end of a text, if there is one."""
        return self._vocabulary.eos_id

    @property
    def eog_ids(self) -> frozenset[int]:
        """The tokens that end a generation: end of text, of turn, of message."""
        return self._vocabulary.eog_ids

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts `bos_id` in front."""
        return self._vocabulary.add_bos

    @property
    def add_eos(self) -> bool:
        """Whether `encode` puts `eos_id` behind."""
        return self._vocabulary.add_eos

    @property
    def space_prefix(self) -> bool:
        """Whether a text is encoded as if a space stood before it (SentencePiece), which decoding takes away again."""
        return self._model.space_prefix

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Text to id of the tokens that ordinary text cannot become."""
        return self._control

    def break_control(self, text: str, marker: str) -> str:
        """`text` with `marker` put into everything that `encode_rendered` would take for a control token."""
        starts = self._finder.starts(text)
        ends = [*starts[1:], len(text) - 1]
        if not starts:
            return text
        return text[: starts[0] + 1] + "".join(marker + text[a + 1 : b + 1] for a, b in zip(starts, ends, strict=True))

    def is_control(self, token_id: int) -> bool:
        """Whether the token is a mark for the model and not a part of any text."""
        return token_id in self._control_ids

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of `text`.

        `add_special` adds the beginning and end tokens that the model wants (none is doubled). `parse_special` turns
        text such as "<|im_end|>" into that control token: only for text the program wrote, never for a person's.
        """
        if parse_special:
            return self.encode_rendered(text, "", add_special=add_special)
        return self._wrap(self._model.encode(_well_formed(text)), add_special)

    def encode_rendered(self, text: str, marker: str, *, add_special: bool = True) -> list[int]:
        """Like `encode` with `parse_special`, but control tokens are only found where `marker` does not break them.

        `marker` is a character that is then removed; "" for none. Chat templates use it to keep message contents apart.
        """
        ids: list[int] = []
        after_control = False
        for part in self._finder.split(_well_formed(text)):
            if isinstance(part, int):
                ids.append(part)
                after_control = True
                continue
            if marker:
                part = part.replace(marker, "")
            if after_control and self._rstrip_control:
                part = part.lstrip()
            ids += self._model.encode(part)
            after_control = False
        return self._wrap(ids, add_special)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_special` leaves control tokens out.

        Raises TokenizerError for an id outside the vocabulary.
        """
        stream = TextStream(self, skip_special=skip_special)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to the output: UTF-8, possibly a part of a character."""
        return self._model.token_bytes(token_id, self.token_text(token_id))

    def whole_text(self, token_id: int) -> str | None:
        """The text that a token is by itself; None for control tokens, and for bytes that are no whole characters."""
        if token_id not in self._whole:
            self._whole[token_id] = None if self.is_control(token_id) else _decoded(self.token_bytes(token_id))
        return self._whole[token_id]

    def token_text(self, token_id: int) -> str:
        """The token as the vocabulary writes it (with U+2581 or byte letters)."""
        if not 0 <= token_id < self.n_vocab:
            raise TokenizerError(f"Expected a token id below {self.n_vocab}, got {token_id}.")
        return self._vocabulary.tokens[token_id]

    def token_id(self, text: str) -> int | None:
        """The id of the token that the vocabulary writes so, or None."""
        return self._vocabulary.ids.get(text)

    def _wrap(self, ids: list[int], add_special: bool) -> list[int]:
        if add_special and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids = [self.bos_id, *ids]
        if add_special and self.add_eos and self.eos_id is not None and ids[-1:] != [self.eos_id]:
            ids = [*ids, self.eos_id]
        return ids


def _decoded(data: bytes) -> str | None:
    """UTF-8 as text, or None where it is not whole characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _well_formed(text: str) -> str:
    """Half surrogate pairs (they come from JSON cut in the middle of a character) as U+FFFD; all else as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
