"""Which model a result belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import toys
from ingle.evaluate.identity import file_sha256, model_info
from ingle.evaluate.result import ModelInfo
from ingle.models.checkpoint import open_checkpoint
from ingle.text import metadata_from_hf


def info(path: Path, told: list[tuple[int, int]] | None = None) -> ModelInfo:
    checkpoint = open_checkpoint(path, None, metadata_from_hf)
    try:
        return model_info(checkpoint, path, None if told is None else lambda *at: told.append(at))
    finally:
        checkpoint.close()


def test_a_file(tmp_path: Path) -> None:
    path = toys.toy_gguf(tmp_path / "toy.gguf")
    told: list[tuple[int, int]] = []
    found = info(path, told)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)
    assert (found.name, found.file, found.bytes) == ("Toy", "toy.gguf", path.stat().st_size)
    assert (found.architecture, found.bits) == ("llama", 32.0)
    assert told[-1] == (found.bytes, found.bytes)
    (tmp_path / "link.gguf").symlink_to(path)
    assert info(tmp_path / "link.gguf") == found


def test_a_file_in_parts_is_all_of_them(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        toys.toy_gguf(tmp_path / name / "toy.gguf", split_max_tensors=8, seed=seed)
    firsts = [sorted((tmp_path / name).glob("*.gguf"))[0] for name in "abc"]
    a, b, c = map(info, firsts)
    assert a == b
    assert a.sha256 != c.sha256
    assert a.bytes == sum(part.stat().st_size for part in firsts[0].parent.iterdir())


def test_a_folder_is_its_weights_and_settings(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    toys.huggingface_llama(folder)
    before = info(folder)
    assert before.file == "model"
    (folder / "README.md").write_text("Not a part of the model.")
    assert info(folder) == before
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert info(folder).sha256 != before.sha256
