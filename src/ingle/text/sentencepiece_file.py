"""Read a SentencePiece model file (`tokenizer.model`): a protocol buffer, of which a tokenizer needs a dozen fields.

Source: sentencepiece_model.proto (field numbers), Protocol Buffers encoding (wire format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingle.errors import CheckpointError
from ingle.text.vocabulary import MAX_TOKENS

__all__ = ["UNIGRAM", "SentencePieceFile", "read_sentencepiece"]

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType


@dataclass
class SentencePieceFile:
    """The parts of a model file that a tokenizer needs, with the defaults of the format. An id of -1 means none."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)  # numbered as TokenType
    model_type: int = UNIGRAM
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    rewrites_characters: bool = False


_TRAINER = {3: "model_type", 40: "unk_id", 41: "bos_id", 42: "eos_id", 43: "pad_id"}
_NORMALIZER = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces"}


def read_sentencepiece(data: bytes) -> SentencePieceFile:
    """Parse the bytes of a `tokenizer.model`. Raises CheckpointError if they are not a SentencePiece model."""
    model = SentencePieceFile()
    for number, value in _fields(memoryview(data)):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            _add_piece(model, value)
        elif number in (2, 3):
            names = _TRAINER if number == 2 else _NORMALIZER
            for inner, setting in _fields(value):
                if number == 3 and inner == 2 and isinstance(setting, memoryview):
                    model.rewrites_characters = len(setting) > 0
                elif inner in names and isinstance(setting, int):
                    setattr(model, names[inner], bool(setting) if number == 3 else setting)
    if not model.pieces:
        raise CheckpointError("Expected a SentencePiece model, found no tokens in it.")
    return model


def _add_piece(model: SentencePieceFile, message: memoryview) -> None:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(message):
        if number == 1 and isinstance(value, memoryview):
            try:
                text = str(value, "utf-8")
            except UnicodeDecodeError:
                raise CheckpointError("Expected a SentencePiece model, found a token that is not UTF-8.") from None
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if len(model.pieces) >= MAX_TOKENS:
        raise CheckpointError(f"Expected at most {MAX_TOKENS} tokens in a SentencePiece model, found more.")
    model.pieces.append(text)
    model.scores.append(score)
    model.types.append(kind)


def _fields(data: memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """(field number, value) of a message: varints as signed integers, 32 bits as float, the rest as views."""
    at, end = 0, len(data)

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise CheckpointError("Expected a SentencePiece model, found a file that is cut off or something else.")

    while at < end:
        key = varint()
        wire = key & 7
        if wire == 0:
            value = varint()
            yield key >> 3, value - (1 << 64) if value >> 63 else value
            continue
        size = {1: 8, 5: 4}.get(wire, -1) if wire != 2 else varint()
        if size < 0 or size > end - at:
            raise CheckpointError("Expected a SentencePiece model, found a file that is cut off or something else.")
        view = data[at : at + size]
        at += size
        yield key >> 3, struct.unpack("<f", view)[0] if wire == 5 else view
