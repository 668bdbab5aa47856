"""Token shards that are damaged, or were made to harm, are refused in a sentence."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingle.errors import DataError
from ingle.train.data.shard_format import ShardSet, open_shards


def test_another_tokenizer_is_one_sentence(built: ShardSet) -> None:
    assert open_shards(built.folder, vocabulary_digest="bytes").digest == built.digest
    with pytest.raises(DataError, match="made with another tokenizer"):
        open_shards(built.folder, vocabulary_digest="another")


@pytest.mark.parametrize("name", ["tokens-00000.bin", "ends.bin", "sources.bin"])
@pytest.mark.parametrize("damage", ["missing", "short", "long", "folder", "pipe"])
def test_damaged_files_are_refused(built: ShardSet, name: str, damage: str) -> None:
    path = built.folder / "train" / name
    content = path.read_bytes()
    path.unlink()
    if damage in ("short", "long"):
        path.write_bytes(content[:-2] if damage == "short" else content + b"\0\0")
    elif damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match="missing" if damage == "missing" else "damaged"):
        open_shards(built.folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("ends.bin", lambda ends: ends[::-1], "ends.bin is damaged"),
        ("ends.bin", lambda ends: np.concatenate(([1], ends[1:])), "ends.bin is damaged"),
        ("ends.bin", lambda ends: np.concatenate(([-(2**62)], ends[1:])), "ends.bin is damaged"),
        ("ends.bin", lambda ends: np.concatenate((ends[:-1], ends[-1:] + 1)), "ends.bin is damaged"),
        ("ends.bin", lambda ends: np.concatenate(([2**62, -(2**62)], ends[2:])), "ends.bin is damaged"),
        ("sources.bin", lambda sources: sources + 1, "sources.bin is damaged"),
    ],
)
def test_numbers_that_point_elsewhere_are_refused(built: ShardSet, name: str, values: Any, message: str) -> None:
    path = built.folder / "train" / name
    dtype = "<i8" if name == "ends.bin" else "<u2"
    path.write_bytes(values(np.frombuffer(path.read_bytes(), dtype)).astype(dtype).tobytes())
    with pytest.raises(DataError, match=message):
        open_shards(built.folder)


def test_ids_beyond_the_vocabulary_are_refused_as_they_are_read(built: ShardSet) -> None:
    path = built.folder / "train" / "tokens-00000.bin"
    path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
    train = open_shards(built.folder).train
    train.read(np.arange(1, 5))
    with pytest.raises(DataError, match="hold the token 65535, and their vocabulary has 257"):
        train.read(np.arange(5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "have the version 2"),
        ({"format": "other"}, "choose another folder"),
        ({"vocabulary_size": 0}, "'vocabulary_size' is wrong"),
        ({"vocabulary_size": True}, "'vocabulary_size' is wrong"),
        ({"vocabulary_size": 65537}, "damaged: .* bytes were expected"),
        ({"shard_tokens": 7}, "'shard_tokens'"),
        ({"shard_tokens": 12}, "'shard_tokens'"),
        ({"shard_tokens": 2**62}, "'shard_tokens'"),
        ({"sources": []}, "'sources'"),
        ({"sources": [7]}, "'sources'"),
        ({"sources": [{"weight": float("nan")}]}, "'weight'"),
        ({"sources": [{"weight": -1}]}, "'weight'"),
        ({"sources": [{"weight": 10**400}]}, "'weight'"),
        ({"train": None}, "'train'"),
        ({"train": {}}, "'documents'"),
        ({"vocabulary_digest": None}, "'vocabulary_digest'"),
    ],
)
def test_a_description_that_is_wrong_is_refused(built: ShardSet, changes: dict[str, Any], message: str) -> None:
    (built.folder / "meta.json").write_text(json.dumps({**built.meta, **changes}))
    with pytest.raises(DataError, match=message):
        open_shards(built.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 2**62}, "'tokens'"),
        ({"tokens": -1}, "'tokens'"),
        ({"documents": 2**40}, "'tokens'"),
        ({"documents": 0, "tokens": 9, "learn": [False]}, "damaged"),
        ({"learn": []}, "'learn'"),
        ({"learn": [1]}, "'learn'"),
        ({"learn": [True]}, r"learn-00000.bin is missing"),
        ({"digest": 5}, "'digest'"),
    ],
)
def test_a_side_that_is_wrong_is_refused(built: ShardSet, changes: dict[str, Any], message: str) -> None:
    meta = {**built.meta, "train": {**built.meta["train"], **changes}}
    (built.folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=message):
        open_shards(built.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"{}", b"null"])
def test_what_is_no_description_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="holds no token shards"):
        open_shards(tmp_path)
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged|does not describe"):
        open_shards(tmp_path)


def test_random_damage_is_refused_or_read_within_bounds(built: ShardSet, tmp_path: Path) -> None:
    """Any byte of meta.json, ends.bin or sources.bin may be another: a DataError, or shards whose reads stay inside."""
    chance = random.Random(5)
    target = tmp_path / "fuzzed"
    refused = 0
    for _ in range(300):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(built.folder, target)
        path = target / chance.choice(["meta.json", "train/ends.bin", "train/sources.bin", "validation/ends.bin"])
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 1, 4])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            opened = open_shards(target)
            for side in (opened.train, opened.validation):
                side.read(np.arange(side.n_tokens))
                side.weights[side.sources]
        except DataError:
            refused += 1
    assert refused > 100
