"""Checkpoints and models on disk: whole or not there, and never trusted."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ingle.errors import CheckpointError  # noqa: E402
from ingle.train import checkpoint as module  # noqa: E402
from ingle.train.checkpoint import (  # noqa: E402
    checkpoints,
    load_checkpoint,
    load_run_model,
    prune,
    save_checkpoint,
    save_model,
)
from ingle.train.shape import Shape  # noqa: E402
from ingle.train.tensors import read_tensors, write_tensors  # noqa: E402

SHAPE = Shape(vocabulary=8, width=4, layers=1, heads=1, kv_heads=1, hidden=4, context=4)
STATE = {"shape": SHAPE.to_dict(), "tokens": 10}


def tensors(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b": torch.randn(4, generator=generator).bfloat16(),
        "count": torch.tensor(7, dtype=torch.int64),
        "none": torch.zeros(0, 3),
        "transposed": torch.randn(2, 3, generator=generator).T,
    }


def save(folder: Path, step: int, **state: Any) -> Path:
    return save_checkpoint(folder, step, tensors(step), tensors(step + 100), STATE | state)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    """The library reads what we write."""
    path = tmp_path / "x.safetensors"
    digest = write_tensors(path, tensors())
    found = read_tensors(path)
    assert list(found) == sorted(tensors()) or set(found) == set(tensors())
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert digest == module.file_digest(path)


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    place = save(tmp_path, 3)
    assert place == tmp_path / "step-00000003"
    found = load_checkpoint(place)
    assert (found.step, found.state["tokens"]) == (3, 10)
    assert torch.equal(found.tensors["a"], tensors(3)["a"])
    assert torch.equal(found.optimizer["a"], tensors(103)["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_writing_one_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3)
    save_checkpoint(tmp_path, 3, tensors(50), tensors(51), STATE)
    assert torch.equal(load_checkpoint(tmp_path / "step-00000003").tensors["a"], tensors(50)["a"])
    assert len(list(tmp_path.iterdir())) == 1


def test_one_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_damage_is_seen(tmp_path: Path, name: str, damage: str) -> None:
    place = save(tmp_path, 1)
    path = place / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        # In state.json, within a digest.
        at = data.index(b'"sha256"') + 40 if name == "state.json" else len(data) - 1
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(CheckpointError, match=r"state\.json|safetensors"):
        load_checkpoint(place)


@pytest.mark.parametrize(
    "text", ["[1]", "{}", '{"version": 99, "step": 1}', '{"version": 1, "step": "one"}', "[" * 10000]
)
def test_a_state_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    place = save(tmp_path, 1)
    (place / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        load_checkpoint(place)


def test_pruning_keeps_the_newest_two_and_the_best(tmp_path: Path) -> None:
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 4.5), (10, 4.4)):
        save(tmp_path, step, validation={"loss": loss})
    (tmp_path / ".step-00000011.part").mkdir()
    prune(tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000004", "step-00000002"]
    assert not (tmp_path / ".step-00000011.part").exists()


def test_a_model_comes_back_from_its_folder_and_from_its_run(tmp_path: Path) -> None:
    from ingle.train.decoder import Decoder

    weights = dict(Decoder(SHAPE).named_parameters())
    save_model(tmp_path / "run" / "model", SHAPE, weights, b"{}", {"step": 4})
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        found = load_run_model(path)
        assert (found.shape, found.tokenizer_json, found.info) == (SHAPE, b"{}", {"step": 4})
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in weights.items())


def test_a_run_without_a_model_gives_that_of_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints", 1)
    place = save(tmp_path / "checkpoints", 2)
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    assert load_run_model(tmp_path).info == {"step": 2}
    assert load_run_model(place).tokenizer_json == b"{}"
    (place / "model.safetensors").write_bytes(b"")
    assert load_run_model(tmp_path).info == {"step": 1}


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained model"):
        load_run_model(tmp_path)
    save_model(tmp_path / "model", SHAPE, tensors(), None)
    (tmp_path / "model" / "shape.json").write_text(json.dumps(SHAPE.to_dict() | {"heads": 3, "head_dim": 0}))
    with pytest.raises(CheckpointError, match=r"shape\.json does not describe a model: .*multiple of heads"):
        load_run_model(tmp_path)
