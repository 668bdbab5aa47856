"""Small token shards to test with, and what tests ask of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ingle.train.data.document import Document
from ingle.train.data.shard_format import Shards
from ingle.train.data.sources import Source

SIZE, END = 257, 256


class Bytes:
    """A vocabulary whose tokens are bytes."""

    def __init__(self, digest: str = "bytes", size: int = SIZE) -> None:
        self.digest, self.size = digest, size
        self.calls = 0

    def encode_batch(self, documents: Sequence[Document]) -> list[tuple[list[int], list[bool] | None]]:
        self.calls += 1
        out: list[tuple[list[int], list[bool] | None]] = []
        for document in documents:
            learn = [segment.learn for segment in document.segments for _ in segment.text.encode()]
            ids = [*document.text.encode(), END]
            out.append((ids, None if all(learn) else [*learn, document.segments[-1].learn]))
        return out


def write_texts(path: Path, texts: Sequence[str]) -> Source:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return Source(str(path))


def texts_of(shards: Shards) -> list[str]:
    ids = shards.read(np.arange(shards.n_tokens))
    out = []
    for begin, end in zip([0, *shards.ends[:-1]], shards.ends, strict=True):
        assert ids[end - 1] == END
        out.append(bytes(ids[begin : end - 1].astype(np.uint8)).decode())
    return out


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if "partial" in path.name]


TEXTS = [f"story {n} " + "x" * (n % 7) for n in range(200)]
