"""A source of a few documents, and the shards made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingle.train.data.shard_format import ShardSet
from ingle.train.data.shards import build_shards
from ingle.train.data.sources import Source
from train.data.small_shards import TEXTS, Bytes, write_texts


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return write_texts(tmp_path / "stories.jsonl", TEXTS)


@pytest.fixture
def built(tmp_path: Path, source: Source) -> ShardSet:
    return build_shards([source], Bytes(), tmp_path / "shards", validation=0.1, seed=3)
