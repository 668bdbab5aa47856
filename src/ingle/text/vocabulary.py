"""The vocabulary in a GGUF file: its tokens, their types and scores, and the ids with a special part to play.

Everything is checked here once, so that the tokenizers behind it can trust what they hold.
Source of the keys: the GGUF specification, section "Tokenizer".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from ingle.errors import TokenizerError

__all__ = ["MAX_TOKENS", "TokenType", "Vocabulary"]

#: More tokens than any published model has (the largest have about 262 thousand); past this a file is not sound.
MAX_TOKENS = 1 << 22

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

#: Tokens that end a turn or a document. A file's own ids come first; these catch models that end with more than one.
_END_MARKERS = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<turn|>",
        "<end_of_utterance>",
        "<EOT>",
        "<|END_OF_TURN_TOKEN|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek, with full-width bars
    }
)
#: Tokens that begin a turn. Together with the end markers they are control tokens whatever the file says: converters
#: have marked them "user defined", and then a prompt could speak with the system's voice.
_TURN_MARKERS = _END_MARKERS | {
    "<|im_start|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<|start|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|START_OF_TURN_TOKEN|>",
}


#: What marks calls in an answer. Some converters made control tokens of them; then no program would find the calls.
_CALL_MARKERS = frozenset({"<tool_call>", "</tool_call>"})


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, numbered as in SentencePiece's model file."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """A checked vocabulary.

    `tokens`, `types` and `scores` have one entry per id; `scores` is empty if the file has none.
    """

    tokens: list[str]
    types: list[int]
    scores: list[float]
    ids: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool

    @cached_property
    def _ids_by_type(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {kind: [] for kind in TokenType}
        for token_id, kind in enumerate(self.types):
            found[kind].append(token_id)
        return found

    def of_type(self, *types: TokenType) -> dict[str, int]:
        """Text to id of the tokens with one of these types."""
        return {self.tokens[i]: i for kind in types for i in self._ids_by_type[kind]}

    def byte_ids(self) -> list[int] | None:
        """The ids of the 256 byte tokens in order, or None for a vocabulary without byte fallback."""
        found: dict[int, int] = {}
        for text, token_id in self.of_type(TokenType.BYTE).items():
            match = _BYTE_TOKEN.fullmatch(text)
            if match is None:
                raise TokenizerError(
                    f"Token {token_id} is a byte token, so expected a name like <0x0A>, found {text!r}."
                )
            found[int(match[1], 16)] = token_id
        if not found:
            return None
        if len(found) != 256:
            raise TokenizerError(
                f"Expected 256 byte tokens or none, found {len(found)}; the file needs converting anew."
            )
        return [found[value] for value in range(256)]

    @classmethod
    def from_metadata(
        cls,
        metadata: Mapping[str, object],
        *,
        scored: bool,
        bos: int | None,
        eos: int | None,
        unk: int | None,
        add_bos: bool,
    ) -> Vocabulary:
        """Read and check the `tokenizer.ggml.*` keys.

        `scored` says that scores are required; the other arguments are this tokenizer model's defaults for keys that
        the file leaves out. Raises TokenizerError.
        """
        tokens = _tokens(metadata)
        count = len(tokens)
        ids = dict(zip(tokens, range(count), strict=True))
        if len(ids) != count:
            first = next(text for i, text in enumerate(tokens) if ids[text] != i)
            raise TokenizerError(f"Expected every token once, found {first!r} twice; the file needs converting anew.")
        scores = _numbers(metadata, "scores", count, required=scored)
        if not all(map(math.isfinite, scores)):
            raise TokenizerError("Expected finite numbers in tokenizer.ggml.scores, found infinity or not-a-number.")

        types = _types(metadata, tokens, bos, eos, unk)
        bos_id = _special_id(metadata, "bos", types, bos)
        eos_id = _special_id(metadata, "eos", types, eos)
        unk_id = _special_id(metadata, "unknown", types, unk)
        for marker in _TURN_MARKERS & ids.keys():
            if types[ids[marker]] == TokenType.USER_DEFINED:
                types[ids[marker]] = TokenType.CONTROL
        for marker in _CALL_MARKERS & ids.keys():
            if types[ids[marker]] == TokenType.CONTROL:
                types[ids[marker]] = TokenType.USER_DEFINED
        ends = {eos_id, _special_id(metadata, "eot", types, None), _special_id(metadata, "eom", types, None)}
        ends |= {ids[m] for m in _END_MARKERS & ids.keys() if types[ids[m]] == TokenType.CONTROL}
        return cls(
            tokens=tokens,
            types=types,
            scores=scores,
            ids=ids,
            bos_id=bos_id,
            eos_id=eos_id,
            unk_id=unk_id,
            eog_ids=frozenset(i for i in ends if i is not None),
            add_bos=_adds(metadata, "bos", bos_id, add_bos),
            add_eos=_adds(metadata, "eos", eos_id, False),
        )


def _tokens(metadata: Mapping[str, object]) -> list[str]:
    value = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TokenizerError("Expected the key tokenizer.ggml.tokens with the vocabulary, found none in this file.")
    size = len(value) if isinstance(value, Sized) else 0
    if size > MAX_TOKENS:
        raise TokenizerError(f"Expected at most {MAX_TOKENS} tokens, found {size}; the file is not sound.")
    tokens = list(value)
    if not tokens:
        raise TokenizerError("Expected tokens in tokenizer.ggml.tokens, found an empty list.")
    if not all(issubclass(kind, str) for kind in set(map(type, tokens))):
        raise TokenizerError("Expected strings in tokenizer.ggml.tokens, found something else; the file is not sound.")
    # An empty string can neither be matched nor written; it keeps its id under a name that says so.
    return [text or f"[EMPTY_{i}]" for i, text in enumerate(tokens)] if "" in tokens else tokens


def _numbers(metadata: Mapping[str, object], key: str, count: int, *, required: bool) -> list[float]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None and not required:
        return []
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TokenizerError(f"Expected the key tokenizer.ggml.{key} with {count} numbers, found none in this file.")
    # numpy's own tolist is twenty times faster than list() and gives Python numbers.
    numbers = value.tolist() if hasattr(value, "tolist") else list(value)
    if len(numbers) != count:
        raise TokenizerError(f"Expected {count} entries in tokenizer.ggml.{key}, one per token, found {len(numbers)}.")
    if not all(issubclass(kind, (int, float)) for kind in set(map(type, numbers))):
        raise TokenizerError(f"Expected numbers in tokenizer.ggml.{key}, found something else; the file is not sound.")
    return numbers


def _types(
    metadata: Mapping[str, object], tokens: list[str], bos: int | None, eos: int | None, unk: int | None
) -> list[int]:
    types = [int(number) for number in _numbers(metadata, "token_type", len(tokens), required=False)]
    if not types:
        # Files from before token types: bytes are known by their name, the others by being bos, eos or unknown.
        types = [TokenType.BYTE if _BYTE_TOKEN.fullmatch(text) else TokenType.NORMAL for text in tokens]
        control = TokenType.CONTROL
        for name, default, kind in (("unknown", unk, TokenType.UNKNOWN), ("bos", bos, control), ("eos", eos, control)):
            given = _special_id(metadata, name, types, None)
            token_id = default if given is None else given
            if token_id is not None and token_id < len(types):
                types[token_id] = kind
    elif min(types) < TokenType.UNDEFINED or max(types) > TokenType.BYTE:
        raise TokenizerError(f"Expected token types from 0 to 6, found {min(types)} to {max(types)} in token_type.")
    return types


def _special_id(metadata: Mapping[str, object], name: str, types: list[int], default: int | None) -> int | None:
    """The id in `tokenizer.ggml.{name}_token_id`, or the default one if its token is no ordinary one."""
    key, count = f"tokenizer.ggml.{name}_token_id", len(types)
    value = metadata.get(key)
    if value is None:
        special = default is not None and default < count and types[default] in (TokenType.UNKNOWN, TokenType.CONTROL)
        return default if special else None
    try:
        token_id = int(value)  # type: ignore[call-overload]  # numpy integers too; anything else raises
    except (TypeError, ValueError):
        raise TokenizerError(f"Expected a token id in {key}, found {value!r}.") from None
    if not 0 <= token_id < count:
        raise TokenizerError(
            f"Expected an id below {count} in {key}, found {token_id}; correct the key or convert anew."
        )
    return int(token_id)


def _adds(metadata: Mapping[str, object], name: str, token_id: int | None, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.add_{name}_token")
    if value is None:
        return default and token_id is not None
    if value and token_id is None:
        raise TokenizerError(f"The file asks to add a {name.upper()} token, but has no tokenizer.ggml.{name}_token_id.")
    return bool(value)
