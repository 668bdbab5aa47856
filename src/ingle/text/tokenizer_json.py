"""What a Hugging Face `tokenizer.json` says, in the words of GGUF.

Such a file describes a pipeline (normalizer, pre-tokenizer, model, post-processor) step by step; GGUF has a name for
the whole. The name is found by recognising the steps, never by trying texts or comparing hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ingle.errors import CheckpointError, UnsupportedError
from ingle.text.pretokenizers import BYTE_LEVEL, GPT2, PUNCTUATION, recognise
from ingle.text.spm import SPACE
from ingle.text.vocabulary import MAX_TOKENS

__all__ = [
    "adds_token",
    "base_vocabulary",
    "is_byte_level",
    "merge_list",
    "pre_name",
    "prefixes_space",
    "scores_of_merges",
]

Json = Mapping[str, Any]

#: Other spellings of the same regular expressions (possessive or grouped differently, with the same matches).
_SPELLINGS = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def steps(part: object) -> Iterator[Json]:
    """The steps of a normalizer, pre-tokenizer, decoder or post-processor, sequences within sequences laid flat."""
    if isinstance(part, Mapping):
        inner = next((part[k] for k in ("normalizers", "pretokenizers", "decoders", "processors") if k in part), None)
        if part.get("type") == "Sequence" and isinstance(inner, list):
            for step in inner:
                yield from steps(step)
        else:
            yield part


def base_vocabulary(tokenizer: Json) -> dict[str, int]:
    """The model's tokens and ids. Raises UnsupportedError unless the model is BPE, CheckpointError if it is unsound."""
    model = tokenizer.get("model")
    kind = model.get("type", "BPE") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or kind != "BPE":
        raise UnsupportedError(f"The tokenizer model {kind!r} in tokenizer.json is not supported; only BPE is.")
    return checked_vocabulary(model.get("vocab"), "tokenizer.json")


def checked_vocabulary(vocabulary: object, name: str) -> dict[str, int]:
    """A JSON object of tokens and ids, once it is known to be one."""
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise CheckpointError(f"Expected tokens with their ids in {name}, found none.")
    if any(not isinstance(i, int) or not 0 <= i < MAX_TOKENS for i in vocabulary.values()):
        raise CheckpointError(f"Expected ids from 0 to {MAX_TOKENS - 1} in {name}, found something else.")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise CheckpointError(f"Expected a different id for every token in {name}, found one id twice.")
    return vocabulary


def merge_list(tokenizer: Json) -> list[tuple[str, str]]:
    """The merges in order; older files write them as one string with a space, newer ones as pairs."""
    merges = tokenizer["model"].get("merges")
    if not isinstance(merges, list):
        raise CheckpointError("Expected a list of merges in tokenizer.json, found none.")
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        match merge.split(" ", 1) if isinstance(merge, str) else merge:
            case [str(left), str(right)] if left and right:
                pairs.append((left, right))
            case _:
                raise CheckpointError("Expected merges of two tokens in tokenizer.json, found something else.")
    return pairs


def is_byte_level(tokenizer: Json) -> bool:
    """Whether tokens are written in byte letters (GPT-2) rather than with U+2581 (SentencePiece)."""
    parts = (*steps(tokenizer.get("pre_tokenizer")), *steps(tokenizer.get("decoder")))
    return any(step.get("type") == "ByteLevel" for step in parts)


def pre_name(tokenizer: Json) -> tuple[str, bool]:
    """The `tokenizer.ggml.pre` of a byte-level tokenizer, and whether it puts a space before a text.

    Raises UnsupportedError for a pipeline that no known name stands for.
    """
    nfc = False
    for step in steps(tokenizer.get("normalizer")):
        if step.get("type") != "NFC":
            raise UnsupportedError(f"The normalizer {step.get('type')!r} in tokenizer.json is not supported.")
        nfc = True
    splits: list[str] = []
    space_prefix = False
    for step in steps(tokenizer.get("pre_tokenizer")):
        if step.get("type") == "ByteLevel":
            space_prefix |= bool(step.get("add_prefix_space"))
            splits += [GPT2, BYTE_LEVEL] if step.get("use_regex", True) else [BYTE_LEVEL]
        else:
            splits.append(_split(step))
    if splits and splits[-1] == BYTE_LEVEL:
        splits.pop()
    name = recognise(splits, nfc=nfc, ignore_merges=bool(tokenizer["model"].get("ignore_merges")))
    if name is None:
        raise UnsupportedError(f"The pre-tokenizer in tokenizer.json is not one that GGUF has a name for: {splits!r}.")
    return name, space_prefix


def _split(step: Json) -> str:
    kind, behavior = step.get("type"), step.get("behavior")
    pattern = step.get("pattern")
    if kind == "Split" and isinstance(pattern, Mapping):
        # Removing what does not match leaves the matches, as isolating does when every character matches.
        isolates = (behavior == "Isolated" and not step.get("invert")) or (behavior == "Removed" and step.get("invert"))
        if isolates and isinstance(regex := pattern.get("Regex"), str):
            return _SPELLINGS.get(regex, regex)
        if isolates and isinstance(text := pattern.get("String"), str):
            return re.escape(text)
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    if kind == "Punctuation" and behavior == "Contiguous":
        return PUNCTUATION
    raise UnsupportedError(f"The pre-tokenizer step {kind!r} in tokenizer.json is not supported.")


def prefixes_space(tokenizer: Json) -> bool:
    """Whether a SentencePiece-style tokenizer puts a space before a text.

    Raises UnsupportedError for a normalizer that does more than SentencePiece's plain one.
    """
    prefix = False
    for step in steps(tokenizer.get("normalizer")):
        kind = step.get("type")
        if kind == "Prepend":
            prefix = True
        elif kind != "Replace" or step.get("content") != SPACE:
            raise UnsupportedError(f"The normalizer {kind!r} in tokenizer.json is not supported.")
    for step in steps(tokenizer.get("pre_tokenizer")):
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme")
            prefix |= scheme in ("always", "first") if scheme is not None else bool(step.get("add_prefix_space"))
    return prefix


def scores_of_merges(ids: Mapping[str, int], merges: list[tuple[str, str]]) -> list[float] | None:
    """Scores that make SentencePiece merge as these merges do, in the order of `ids`; None if there are none.

    They exist if every split of a token into two tokens is a merge, as in all files converted from SentencePiece.
    """
    rank: dict[str, int] = {}
    for position, (left, right) in enumerate(merges):
        rank.setdefault(left + right, position)
    given = set(merges)
    for token in ids:
        for cut in range(1, len(token)):
            pair = (token[:cut], token[cut:])
            if pair[0] in ids and pair[1] in ids and pair not in given:
                return None
    return [-float(rank.get(token, 0)) for token in ids]


def adds_token(tokenizer: Json, text: str | None, *, first: bool) -> bool:
    """Whether the post-processor puts the token `text` at the beginning (`first`) or the end of a single text."""
    for step in steps(tokenizer.get("post_processor")):
        template = step.get("single")
        if isinstance(template, list) and template and isinstance(piece := template[0 if first else -1], Mapping):
            special = piece.get("SpecialToken")
            if isinstance(special, Mapping) and text is not None and special.get("id") == text:
                return True
    return False
