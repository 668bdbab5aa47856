"""Vocabularies: documents to token ids and back, trained from texts or taken from a model.

A trained vocabulary is byte-level BPE (Sennrich et al., arXiv 1508.07909; bytes as in GPT-2), split by the expression
of Qwen 2 and without Unicode normalisation: every text comes back from its tokens as it was. GGUF calls this pipeline
"stablelm2"; "qwen2" is the same with normalisation to form C.

Ids begin with the control tokens <|endoftext|>, <|im_start|>, <|im_end|> and the markup of function calls. In a
document only the frame (special segments) becomes such tokens, never what people wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ingle.errors import DataError, TokenizerError, UsageError
from ingle.files import write_whole
from ingle.text.finder import TokenFinder
from ingle.text.pretokenizers import PRE_TOKENIZERS
from ingle.text.tokenizer_json import base_vocabulary
from ingle.train.data.conversation import CONTROL_TOKENS, IM_END, IM_START, MARKUP_TOKENS
from ingle.train.data.document import Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["MIN_SIZE", "PRE_TOKENIZER", "Vocabulary", "load_vocabulary", "train_tokenizer"]

#: `tokenizer.ggml.pre` of trained vocabularies.
PRE_TOKENIZER = "stablelm2"

#: The control tokens and one token for each byte: the least there can be.
MIN_SIZE = len(CONTROL_TOKENS) + len(MARKUP_TOKENS) + 256
_MAX_SIZE = 1 << 20
#: Pairs seen once teach nothing about language.
_MIN_FREQUENCY = 2


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token ids for documents.

    tokenizer: of the package `tokenizers`, with all its added tokens.
    end_id: the token after every document. begin_id: the token before it, where a model wants one.
    chat_end_id: the token that ends a turn (<|im_end|>); None for a vocabulary that has no ChatML tokens.
    digest: SHA-256 of everything that decides ids, as hexadecimal. size: how many ids there are, [0, size).
    n_unused: ids among them that stand for nothing (see `train_tokenizer`).
    """

    tokenizer: Tokenizer
    end_id: int
    chat_end_id: int | None
    digest: str
    size: int
    begin_id: int | None = None
    n_unused: int = 0
    _plain: Tokenizer = field(kw_only=True, repr=False)
    _finder: TokenFinder = field(kw_only=True, repr=False)

    @classmethod
    def from_json(cls, text: str, *, end: str | int | None = None, begin_id: int | None = None) -> Vocabulary:
        """From the text of a tokenizer.json. end: the token after a document; None looks for one of the known names.

        Raises UnsupportedError unless the model is BPE, TokenizerError for what is not sound.
        """
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(text)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            parsed = json.loads(tokenizer.to_str())  # one spelling for one tokenizer: the digest is to stay the same
        except Exception as error:  # the package has no class of its own for a file it cannot read
            raise TokenizerError(f"The tokenizer.json is not sound ({error}); get it again.") from None
        ids = dict(base_vocabulary(parsed))
        added = [entry for entry in parsed.get("added_tokens") or () if isinstance(entry, Mapping)]
        ids |= {entry["content"]: entry["id"] for entry in added}
        frame = {e["content"]: e["id"] for e in added if e["special"] or e["content"] in MARKUP_TOKENS}
        # Chat models often mark only some of these as special. All of them are frame.
        frame |= {text: ids[text] for text in (*CONTROL_TOKENS, *MARKUP_TOKENS) if text in ids}
        plain = {**parsed, "added_tokens": [e for e in added if e["content"] not in frame]}
        plain |= {"post_processor": None}
        end_id = _end_id(ids, end)
        canonical = json.dumps([plain, frame, end_id, begin_id], sort_keys=True).encode()
        return cls(
            tokenizer,
            end_id,
            ids.get(IM_END) if IM_START in ids else None,
            hashlib.sha256(canonical).hexdigest(),
            max(ids.values()) + 1,
            begin_id,
            sum(_is_unused(text, token_id) for text, token_id in frame.items()),
            _plain=Tokenizer.from_str(json.dumps(plain)),
            _finder=TokenFinder({text: token_id for text, token_id in frame.items() if text}),
        )

    def encode(self, document: Document) -> tuple[list[int], list[bool] | None]:
        """(ids, which of them are learnt); None in place of the second where all are. `encode_batch` for many."""
        return self.encode_batch([document])[0]

    def encode_batch(self, documents: Sequence[Document]) -> list[tuple[list[int], list[bool] | None]]:
        """`encode` for each document, on all processors (take some MiB at a time: it needs about 60 times that).

        A document ends with `end_id`, which is learnt if its last segment is. Between control tokens a stretch that is
        learnt, or not, is encoded as one, as the chat template's text is when the model runs.
        Raises DataError for a conversation where the vocabulary has no ChatML tokens.
        """
        pieces = [list(self._pieces(document)) for document in documents]
        texts = [piece for row in pieces for piece, _ in row if isinstance(piece, str)]
        encoded = iter(self._plain.encode_batch_fast(texts, add_special_tokens=False))
        rows: list[tuple[list[int], list[bool] | None]] = []
        for document, row in zip(documents, pieces, strict=True):
            ids: list[int] = [] if self.begin_id is None else [self.begin_id]
            learn = [False] * len(ids)
            for piece, learnt in row:
                more = next(encoded).ids if isinstance(piece, str) else [piece]
                ids += more
                learn += [learnt] * len(more)
            ids.append(self.end_id)
            learn.append(document.segments[-1].learn)
            rows.append((ids, None if all(segment.learn for segment in document.segments) else learn))
        return rows

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens written out; bytes that are not UTF-8 become U+FFFD."""
        if ids and not 0 <= min(ids) <= max(ids) < self.size:
            raise UsageError(f"Expected token ids from 0 to {self.size - 1}, got {min(ids)} to {max(ids)}.")
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def round_trips(self, document: Document, ids: Sequence[int]) -> bool:
        """Whether the ids of a document (from `encode`) decode to its text. Vocabularies that normalise change some."""
        return self.decode(ids[self.begin_id is not None : -1]) == document.text

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        return str(self.tokenizer.to_str(pretty=True))

    def save(self, path: Path) -> None:
        """Write tokenizer.json to `path`, whole or as it was before.

        What it cannot say stands in a tokenizer_config.json beside it: an end token that is not known by its name, and
        a token before documents.
        """
        write_whole(path, self.to_json())
        says: dict[str, object] = {}
        if self.end_id != _end_by_name(self.tokenizer.get_vocab()):
            says["eos_token"] = self.tokenizer.id_to_token(self.end_id)
        if self.begin_id is not None:
            says |= {"bos_token": self.tokenizer.id_to_token(self.begin_id), "add_bos_token": True}
        if says:
            write_whole(path.parent / "tokenizer_config.json", json.dumps(says, ensure_ascii=False, indent=2) + "\n")

    def _pieces(self, document: Document) -> Iterator[tuple[str | int, bool]]:
        """Control tokens and the stretches of ordinary text between them, with what is learnt."""
        text, text_learn = "", False
        for segment in document.segments:
            for part in self._finder.split(segment.text) if segment.special else (segment.text,):
                if isinstance(part, str) and segment.learn == text_learn:
                    text += part
                    continue
                if text:
                    yield text, text_learn
                if isinstance(part, str):
                    text, text_learn = part, segment.learn
                else:
                    yield part, segment.learn
                    text = ""
            if segment.special and self.chat_end_id is None:
                raise DataError(
                    f"{document.origin} is a conversation, and this tokenizer has no {IM_START} and {IM_END}; take one "
                    "that has (a trained one does), or data of plain text."
                )
        if text:
            yield text, text_learn


def train_tokenizer(texts: Iterable[str], size: int) -> Vocabulary:
    """A byte-level BPE vocabulary of exactly `size` ids (best a multiple of 32) from texts, which are read once.

    The same texts give the same vocabulary. Texts too short for `size` have fewer pairs to merge: the ids that are left
    are unused tokens `[PAD{id}]`, so that the model keeps the shape that was asked for; `n_unused` counts them.
    Memory: each different word once. Raises UsageError for an impossible size, DataError for no text.
    """
    if not MIN_SIZE <= size <= _MAX_SIZE:
        raise UsageError(f"A vocabulary of {size} tokens was asked for; expected {MIN_SIZE} to {_MAX_SIZE}.")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in PRE_TOKENIZERS[PRE_TOKENIZER].splits]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[*CONTROL_TOKENS, *MARKUP_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    seen = False

    def checked() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen = seen or bool(text)
            yield text

    tokenizer.train_from_iterator(checked(), trainer)
    if not seen:
        raise DataError("There is no text to train a tokenizer from; give data with text.")
    parsed = json.loads(tokenizer.to_str())
    for entry in parsed["added_tokens"]:  # markup is part of an answer, and must be seen in it
        entry["special"] = entry["content"] in CONTROL_TOKENS
    for token_id in range(tokenizer.get_vocab_size(), size):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        parsed["added_tokens"].append({"id": token_id, "content": f"[PAD{token_id}]", "special": True, **flags})
    return Vocabulary.from_json(json.dumps(parsed, ensure_ascii=False))


def load_vocabulary(path: Path) -> Vocabulary:
    """From a tokenizer.json, a folder that has one (a run, a Hugging Face checkpoint), or a GGUF file.

    Raises TokenizerError, CheckpointError or GGUFError for what is missing or not sound, UnsupportedError for kinds of
    tokenizers other than BPE.
    """
    from ingle.train.data.vocabulary_files import read_tokenizer

    text, end, begin_id = read_tokenizer(path)
    return Vocabulary.from_json(text, end=end, begin_id=begin_id)


#: Tokens after a document, by the names they have in published vocabularies. A chat model's own end token ends a turn.
_END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>")


def _end_by_name(ids: Mapping[str, int]) -> int | None:
    return next((ids[name] for name in _END_NAMES if name in ids), None)


def _end_id(ids: Mapping[str, int], given: str | int | None) -> int:
    found = _end_by_name(ids)
    if found is None:
        found = ids.get(given) if isinstance(given, str) else given
    if found is None:
        raise TokenizerError(
            f"The tokenizer has no token that ends a document ({', '.join(_END_NAMES)}); name one as eos_token in a "
            "tokenizer_config.json beside it."
        )
    return found


def _is_unused(text: str, token_id: int) -> bool:
    return text == f"[PAD{token_id}]"
