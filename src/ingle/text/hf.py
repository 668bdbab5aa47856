"""The tokenizer of a Hugging Face checkpoint as GGUF metadata, for conversion.

Read are `tokenizer.model` (SentencePiece) or `tokenizer.json`, or `vocab.json` with `merges.txt`; then the added
tokens, the special tokens and the chat template from the small files beside them. Nothing is executed or downloaded.

What GGUF cannot say is lost: whether an added token swallows the spaces beside it, and more than three ids that end a
generation (the first goes to eos, others to eot and eom).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingle.errors import CheckpointError, UnsupportedError
from ingle.files import read_bytes
from ingle.text import tokenizer_json as tj
from ingle.text.sentencepiece_file import UNIGRAM, read_sentencepiece
from ingle.text.vocabulary import MAX_TOKENS, TokenType

__all__ = ["metadata_from_hf"]

_MAX_FILE_BYTES = 256 << 20  # the largest tokenizer.json there is has about 35 MB


@dataclass
class _Draft:
    """A tokenizer on its way into metadata: tokens and types by id, and the keys that are already settled."""

    model: str
    tokens: dict[int, str]
    types: dict[int, TokenType] = field(default_factory=dict)
    scores: dict[int, float] | None = None
    ids: dict[str, int] = field(default_factory=dict)  # of special tokens, by GGUF's name
    keys: dict[str, object] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False

    def add(self, token_id: int, text: str, kind: TokenType) -> None:
        """An added token: it takes its id and its text from whatever token had them before."""
        for other in [i for i, known in self.tokens.items() if known == text and i != token_id]:
            self.tokens[other], self.types[other] = f"[UNUSED{other}]", TokenType.UNUSED
        if self.types.get(token_id) not in (TokenType.UNKNOWN, TokenType.BYTE):
            self.types[token_id] = kind
        self.tokens[token_id] = text


def metadata_from_hf(directory: Path, n_vocab: int | None = None) -> dict[str, object]:
    """The `tokenizer.*` keys of a Hugging Face directory, as plain Python values and lists.

    n_vocab: rows of the embedding matrix. Ids without a token are filled with unused tokens `[PAD{id}]`, and added
    tokens past the last row, which the model cannot have learnt, are left out.
    Raises CheckpointError for missing or unsound files, UnsupportedError for a tokenizer that GGUF cannot express.
    """
    config = _json(directory / "tokenizer_config.json")
    specials = _special_texts(config, _json(directory / "special_tokens_map.json"))
    tokenizer = _json(directory / "tokenizer.json")
    if (directory / "tokenizer.model").is_file() and not (tokenizer and tj.is_byte_level(tokenizer)):
        draft = _from_sentencepiece(_read(directory / "tokenizer.model"))
    elif tokenizer:
        draft = _from_json(tokenizer)
    elif (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        draft = _from_gpt2_files(directory)
    else:
        raise CheckpointError(
            f"Expected tokenizer.json or tokenizer.model in {directory.name}, found neither; get the whole checkpoint."
        )
    if tokenizer:
        draft.add_bos = tj.adds_token(tokenizer, specials.get("bos"), first=True)
        draft.add_eos = tj.adds_token(tokenizer, specials.get("eos"), first=False)
    base_size = max(draft.tokens) + 1
    if n_vocab is not None and base_size > n_vocab:
        raise CheckpointError(
            f"Expected at most {n_vocab} tokens for this model, found {base_size}; check config.json."
        )
    for token_id, text, special in _added_tokens(tokenizer, config, _json(directory / "added_tokens.json")):
        if n_vocab is None or token_id < n_vocab:
            draft.add(
                token_id, text, TokenType.CONTROL if special or text in specials.values() else TokenType.USER_DEFINED
            )
    configs = (_json(directory / "generation_config.json"), _json(directory / "config.json"))
    ids = draft.ids | _special_ids(draft, specials, configs)
    for name in ("bos", "eos", "padding"):
        if name in ids and draft.types.get(ids[name], TokenType.NORMAL) == TokenType.NORMAL:
            draft.types[ids[name]] = TokenType.CONTROL
    keys = _arrays(draft, n_vocab) | {f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in ids.items()}
    for name, default in (("bos", draft.add_bos), ("eos", draft.add_eos)):
        given = config.get(f"add_{name}_token")
        keys[f"tokenizer.ggml.add_{name}_token"] = (given if isinstance(given, bool) else default) and name in ids
    return keys | _chat_templates(directory, config)


def _from_sentencepiece(data: bytes) -> _Draft:
    model = read_sentencepiece(data)
    if model.model_type == UNIGRAM or model.rewrites_characters:
        what = "a unigram model" if model.model_type == UNIGRAM else "a model that rewrites characters"
        raise UnsupportedError(
            f"Expected a SentencePiece BPE model in tokenizer.model, found {what}, which is not supported."
        )
    keys: dict[str, object] = {
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
    }
    named = {"bos": model.bos_id, "eos": model.eos_id, "unknown": model.unk_id, "padding": model.pad_id}
    ids = {name: token_id for name, token_id in named.items() if 0 <= token_id < len(model.pieces)}
    try:
        types = {token_id: TokenType(kind) for token_id, kind in enumerate(model.types)}
    except ValueError:
        raise CheckpointError("Expected token types from 1 to 6 in tokenizer.model, found another.") from None
    tokens, scores = dict(enumerate(model.pieces)), dict(enumerate(model.scores))
    return _Draft("llama", tokens, types, scores, ids, keys, add_bos=True)


def _from_json(tokenizer: tj.Json) -> _Draft:
    ids = tj.base_vocabulary(tokenizer)
    merges = tj.merge_list(tokenizer)
    tokens = {token_id: text for text, token_id in ids.items()}
    keys: dict[str, object] = {}
    if tj.is_byte_level(tokenizer):
        keys["tokenizer.ggml.pre"], space_prefix = tj.pre_name(tokenizer)
        if space_prefix:
            keys["tokenizer.ggml.add_space_prefix"] = True
        keys["tokenizer.ggml.merges"] = [f"{left} {right}" for left, right in merges]
        return _Draft("gpt2", tokens, keys=keys)
    types = {ids[text]: TokenType.BYTE for byte in range(256) if (text := f"<0x{byte:02X}>") in ids}
    unknown = tokenizer["model"].get("unk_token")
    unknown_id = {"unknown": ids[unknown]} if isinstance(unknown, str) and unknown in ids else {}
    types |= dict.fromkeys(unknown_id.values(), TokenType.UNKNOWN)
    space_prefix = tj.prefixes_space(tokenizer)
    # Bytes and added tokens are no products of merges; leave them out of the question whether scores can say the same.
    others = {token_id for token_id, _, _ in _added_tokens(tokenizer, {}, {})} | types.keys()
    merged = {text: token_id for text, token_id in ids.items() if token_id not in others}
    scores = tj.scores_of_merges(merged, merges)
    if scores is not None:
        keys["tokenizer.ggml.add_space_prefix"] = space_prefix
        ranked = zip(merged.values(), scores, strict=True)
        return _Draft("llama", tokens, types, dict(ranked), unknown_id, keys)
    if space_prefix:
        raise UnsupportedError(
            "The merges in tokenizer.json cannot be written as scores; add the checkpoint's tokenizer.model."
        )
    keys["tokenizer.ggml.merges"] = [f"{left} {right}" for left, right in merges]
    return _Draft("gemma4", tokens, types, ids=unknown_id, keys=keys)


def _from_gpt2_files(directory: Path) -> _Draft:
    ids = tj.checked_vocabulary(_json(directory / "vocab.json"), "vocab.json")
    lines = _read(directory / "merges.txt").decode("utf-8", "replace").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    keys: dict[str, object] = {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": merges}
    return _Draft("gpt2", {token_id: text for text, token_id in ids.items()}, keys=keys)


def _arrays(draft: _Draft, n_vocab: int | None) -> dict[str, object]:
    size = n_vocab if n_vocab is not None else max(draft.tokens) + 1
    known = set(draft.tokens.values())
    for token_id in range(size):
        if token_id not in draft.tokens:
            text = f"[PAD{token_id}]"
            while text in known:
                text += "_"
            draft.tokens[token_id], draft.types[token_id] = text, TokenType.UNUSED
    keys: dict[str, object] = {
        "tokenizer.ggml.model": draft.model,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [draft.tokens[i] for i in range(size)],
        "tokenizer.ggml.token_type": [int(draft.types.get(i, TokenType.NORMAL)) for i in range(size)],
    }
    if draft.scores is not None:
        keys["tokenizer.ggml.scores"] = [draft.scores.get(i, 0.0) for i in range(size)]
    return keys | draft.keys


def _added_tokens(tokenizer: tj.Json, config: tj.Json, plain: tj.Json) -> list[tuple[int, str, bool]]:
    """(id, text, special) from the three places where added tokens are written; the more telling ones come last."""
    found: list[tuple[object, object, bool]] = [(token_id, text, False) for text, token_id in plain.items()]
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        for key, entry in decoder.items():
            if isinstance(entry, Mapping) and key.isdecimal():
                found.append((int(key), entry.get("content"), bool(entry.get("special"))))
    listed = tokenizer.get("added_tokens")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, Mapping):
            found.append((entry.get("id"), entry.get("content"), bool(entry.get("special"))))
    checked = []
    for token_id, text, special in found:
        if not isinstance(token_id, int) or not 0 <= token_id < MAX_TOKENS or not isinstance(text, str) or not text:
            raise CheckpointError(f"Expected added tokens with a text and an id, found {text!r} with {token_id!r}.")
        checked.append((token_id, text, special))
    return checked


def _special_texts(*sources: tj.Json) -> dict[str, str]:
    """Texts of the bos, eos, unk and pad tokens; the first source that names one decides."""
    found: dict[str, str] = {}
    for source in sources:
        for name in ("bos", "eos", "unk", "pad"):
            value = source.get(f"{name}_token")
            text = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(text, str):
                found.setdefault(name, text)
    return found


def _special_ids(draft: _Draft, texts: Mapping[str, str], configs: tuple[tj.Json, ...]) -> dict[str, int]:
    """Ids by GGUF's name, from the texts in the tokenizer's files or else the numbers in the model's."""
    by_text = {text: token_id for token_id, text in draft.tokens.items()}
    found: dict[str, int] = {}
    for name, gguf_name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        listed = [i for config in configs for i in _id_list(config.get(f"{name}_token_id")) if i in draft.tokens]
        if texts.get(name) in by_text:
            found[gguf_name] = by_text[texts[name]]
        elif listed and gguf_name not in draft.ids:
            found[gguf_name] = listed[0]
        if name == "eos":
            others = [i for i in dict.fromkeys(listed) if i != found.get("eos", draft.ids.get("eos"))]
            found |= dict(zip(("eot", "eom"), others, strict=False))
    return found


def _id_list(value: object) -> list[int]:
    return [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]


def _chat_templates(directory: Path, config: tj.Json) -> dict[str, object]:
    value = config.get("chat_template")
    entries = value if isinstance(value, list) else [{"name": "default", "template": value}]
    named = {
        e.get("name"): e.get("template")
        for e in entries
        if isinstance(e, Mapping) and isinstance(e.get("template"), str)
    }
    file = directory / "chat_template.jinja"  # newer checkpoints keep it beside, and then it counts
    if file.is_file():
        named["default"] = _read(file).decode("utf-8", "replace")
    keys: dict[str, object] = {}
    for name, template in named.items():
        keys["tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}"] = template
    return keys


def _read(path: Path) -> bytes:
    return read_bytes(path, _MAX_FILE_BYTES, CheckpointError)


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"Expected JSON in {path.name}, found something else; download the file again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"Expected a JSON object in {path.name}, found something else.")
    return value
