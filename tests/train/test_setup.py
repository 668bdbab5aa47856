"""What a config leaves open is decided so that it fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ingle.errors import UsageError  # noqa: E402
from ingle.train.config import Budget, Config  # noqa: E402
from ingle.train.setup import decide  # noqa: E402
from ingle.train.validate import token_bytes  # noqa: E402
from train.small_runs import config  # noqa: E402

CPU = torch.device("cpu")


def setup_of(wanted: Config, world: int = 1) -> tuple[int, int]:
    found = decide(wanted, wanted.shape(288), CPU, world, pytest.fail)
    return found.rows, found.micro_rows


def test_micro_batches_divide_the_rows_of_a_device(tmp_path: Path) -> None:
    assert setup_of(config(tmp_path, batch_tokens=32 * 12)) == (12, 12)
    assert setup_of(config(tmp_path, batch_tokens=32 * 12, micro_tokens=32 * 5)) == (12, 4)
    assert setup_of(config(tmp_path, batch_tokens=32 * 12, micro_tokens=32 * 5), world=2) == (12, 3)
    assert setup_of(config(tmp_path, batch_tokens=32 * 1024)) == (1024, 128)


def test_what_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no whole number of rows of 32 positions on 3 devices; 96 would be"):
        setup_of(config(tmp_path, batch_tokens=128), world=3)
    with pytest.raises(UsageError, match=r"micro_tokens is 31, less than one row of 32 positions"):
        setup_of(config(tmp_path, micro_tokens=31))
    long = config(tmp_path)
    with pytest.raises(UsageError, match=r"positions is 64, but the model's context is 32"):
        setup_of(replace(long, data=replace(long.data, positions=64)))


def test_short_runs_are_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(budget: Budget) -> bool:
        wanted = config(tmp_path, compile="auto")
        return decide(replace(wanted, budget=budget), wanted.shape(288), CPU, 1, pytest.fail).compile

    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    assert not compiled(Budget("minutes", 2))
    assert compiled(Budget("minutes", 20))
    assert not compiled(Budget("steps", 10))
    assert compiled(Budget("tokens", 1e12))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiled(Budget("minutes", 20))
    with pytest.raises(UsageError, match="no C\\+\\+ compiler"):
        decide(config(tmp_path, compile=True), config(tmp_path).shape(288), CPU, 1, pytest.fail)


def test_bytes_of_tokens() -> None:
    """Byte-level: a character is a byte. SentencePiece: U+2581 is a space, <0x0A> a byte. Control tokens are none."""
    added = [{"id": 3, "content": "<end>", "special": True}, {"id": 4, "content": "[x]", "special": False}]
    model = {"model": {"vocab": {"\u0120the": 0, "\u00c3": 1, "a": 2}}, "added_tokens": added}
    byte_level = json.dumps(model | {"decoder": {"type": "ByteLevel"}}).encode()
    assert token_bytes(byte_level, 6).tolist() == [4, 1, 1, 0, 3, 0]
    vocabulary = {"\u2581the": 0, "<0x0A>": 1, "\u00e9": 2}
    sentence_piece = json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added[:1], "decoder": None}).encode()
    assert token_bytes(sentence_piece, 4).tolist() == [4, 1, 2, 0]
