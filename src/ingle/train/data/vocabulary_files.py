"""The tokenizer of a model on disk as the text of a tokenizer.json, whatever it is kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingle.errors import CheckpointError, ModelFileError, TokenizerError, UnsupportedError
from ingle.files import read_bytes
from ingle.text import metadata_from_hf
from ingle.text.pretokenizers import BYTE_LEVEL, PreTokenizer, pre_tokenizer
from ingle.text.spm import SPACE
from ingle.text.vocabulary import TokenType
from ingle.text.vocabulary import Vocabulary as Checked

__all__ = ["read_tokenizer"]

_MAX_FILE_BYTES = 256 << 20


def read_tokenizer(path: Path) -> tuple[str, str | int | None, int | None]:
    """(tokenizer.json as text, the model's end token if it names one, the id it begins a text with if it does).

    path: a tokenizer.json, a folder with one (also in its subfolder `model`), or a GGUF file.
    """
    if path.is_dir():
        found = [file for file in (path / "tokenizer.json", path / "model" / "tokenizer.json") if file.is_file()]
        if not found:
            raise CheckpointError(f"The folder {path} has no tokenizer.json; give a tokenizer.json or a GGUF file.")
        return _from_json_file(found[0])
    if not path.is_file():
        from ingle.train.data.files import near_misses

        raise CheckpointError(f"There is no tokenizer {path}{near_misses(path)}")
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return _from_gguf(path)
    if path.suffix != ".json":
        raise CheckpointError(f"{path} is no tokenizer; give a tokenizer.json, a folder that has one, or a GGUF file.")
    return _from_json_file(path)


def _from_json_file(file: Path) -> tuple[str, str | int | None, int | None]:
    data = read_bytes(file, _MAX_FILE_BYTES, CheckpointError)
    try:
        text = data.decode("utf-8")
        json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"Expected JSON in {file}, found something else; get the file again.") from None
    if file.name != "tokenizer.json":
        return text, None, None
    try:
        keys = metadata_from_hf(file.parent)
    except ModelFileError:  # what GGUF cannot express can still be trained with
        return text, None, None
    return text, *_ends(keys)


def _ends(keys: Mapping[str, object]) -> tuple[int | None, int | None]:
    end, begin = keys.get("tokenizer.ggml.eos_token_id"), keys.get("tokenizer.ggml.bos_token_id")
    adds = bool(keys.get("tokenizer.ggml.add_bos_token"))
    return (None if end is None else int(end)), (int(begin) if adds and begin is not None else None)  # type: ignore[call-overload]


def _from_gguf(path: Path) -> tuple[str, str | int | None, int | None]:
    from ingle.models.source import open_source

    source = open_source(path)
    try:
        metadata = dict(source.metadata)
    finally:
        source.close()
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        row = pre_tokenizer(_text(metadata.get("tokenizer.ggml.pre")), metadata.get("general.architecture"))
        vocabulary = Checked.from_metadata(metadata, scored=False, bos=None, eos=None, unk=None, add_bos=row.add_bos)
        parsed = _byte_level(vocabulary, metadata, row)
    elif kind == "llama":
        vocabulary = Checked.from_metadata(metadata, scored=True, bos=1, eos=2, unk=0, add_bos=True)
        parsed = _sentencepiece(vocabulary, metadata)
    else:
        raise UnsupportedError(
            f"The tokenizer model {kind!r} in {path.name} cannot be trained with; gpt2 and llama can."
        )
    begin_id = vocabulary.bos_id if vocabulary.add_bos else None
    return json.dumps(parsed, ensure_ascii=False), vocabulary.eos_id, begin_id


def _byte_level(vocabulary: Checked, metadata: Mapping[str, object], row: PreTokenizer) -> dict[str, Any]:
    if metadata.get("tokenizer.ggml.add_space_prefix"):
        raise UnsupportedError("A byte-level tokenizer that begins texts with a space cannot be trained with.")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, Sequence) or isinstance(merges, str):
        raise TokenizerError("Expected the key tokenizer.ggml.merges with the merges, found none in this file.")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = row.splits if BYTE_LEVEL in row.splits else (*row.splits, BYTE_LEVEL)
    steps = [
        byte_level
        if split == BYTE_LEVEL
        else {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
        for split in splits
    ]
    return {
        "version": "1.0",
        "added_tokens": _added(vocabulary),
        "normalizer": {"type": "NFC"} if row.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level,
        # The cut is looked for from the second letter on: the first may itself be a space.
        "model": _bpe(
            vocabulary, [[m[:cut], m[cut + 1 :]] for m in merges if (cut := m.find(" ", 1)) > 0], row.ignore_merges
        ),
    }


def _sentencepiece(vocabulary: Checked, metadata: Mapping[str, object]) -> dict[str, Any]:
    """Scores as merges: every split of a token into two tokens, in the order of the scores of what they make."""
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    normal = vocabulary.of_type(TokenType.NORMAL)
    ranked: list[tuple[float, int, int, list[str]]] = []
    for token, token_id in normal.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                ranked.append((-vocabulary.scores[token_id], normal[left], normal[right], [left, right]))
    ranked.sort(key=lambda merge: merge[:3])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    model = _bpe(vocabulary, [merge[3] for merge in ranked], False)
    unknown = None if vocabulary.unk_id is None else vocabulary.tokens[vocabulary.unk_id]
    return {
        "version": "1.0",
        "added_tokens": _added(vocabulary),
        "normalizer": {"type": "Sequence", "normalizers": [*before, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": model | {"byte_fallback": vocabulary.byte_ids() is not None, "unk_token": unknown, "fuse_unk": True},
    }


def _bpe(vocabulary: Checked, merges: list[list[str]], ignore_merges: bool) -> dict[str, Any]:
    return {"type": "BPE", "vocab": vocabulary.ids, "merges": merges, "ignore_merges": ignore_merges}


def _added(vocabulary: Checked) -> list[dict[str, Any]]:
    shared = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    kinds = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    found = [
        {"id": token_id, "content": text, "special": special, **shared}
        for kind, special in kinds.items()
        for text, token_id in vocabulary.of_type(kind).items()
    ]
    return sorted(found, key=lambda entry: int(entry["id"]))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
