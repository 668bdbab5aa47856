"""Checkpoints and models on disk: a folder is written beside its place and renamed when whole. No pickle.

checkpoints/step-00000120/   model.safetensors  optimizer.safetensors  state.json
model/                       model.safetensors  shape.json  tokenizer.json  info.json  (quantized.gguf)
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ingle.errors import CheckpointError, UsageError
from ingle.files import beside, read_bytes, write_file
from ingle.train.quantized import Quantized, read_blocks, write_blocks
from ingle.train.shape import Shape
from ingle.train.tensors import file_digest, read_tensors, write_tensors

__all__ = [
    "Checkpoint",
    "TrainedModel",
    "checkpoints",
    "load_checkpoint",
    "load_run_model",
    "prune",
    "read_json",
    "save_checkpoint",
    "save_model",
]

VERSION = 1
_NAME = re.compile(r"step-(\d{8,12})")
_JSON_LIMIT = 2**24  # bytes of a state.json or shape.json that we are ready to read
_TOKENIZER_LIMIT = 2**28


@dataclass(frozen=True)
class TrainedModel:
    """Weights by GGUF's names, float32, with their shape, and the tokenizer as the bytes of its tokenizer.json.

    info: what else is known, ready for JSON (where from, licences, quantisation trained for).
    quantized: blocks of a GGUF type that an export writes as they are, in the place of rounding `tensors`.
    """

    shape: Shape
    tensors: dict[str, Tensor]
    tokenizer_json: bytes | None = None
    info: dict[str, Any] = field(default_factory=dict)
    quantized: Quantized = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: `state` is ready for JSON, `optimizer` is flat."""

    step: int
    tensors: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write `folder`/step-NNNNNNNN; it has that name only when it is whole and on the disk. Raises OSError."""
    place = folder / f"step-{step:08d}"
    with beside(place) as part:
        digests = {
            "model.safetensors": write_tensors(part / "model.safetensors", tensors),
            "optimizer.safetensors": write_tensors(part / "optimizer.safetensors", optimizer),
        }
        record = {"version": VERSION, "step": step, "sha256": digests, **state}
        write_file(part / "state.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    return place


def load_checkpoint(place: Path) -> Checkpoint:
    """Read a checkpoint's folder; every byte is checked. Raises CheckpointError."""
    state = read_json(place / "state.json")
    if state.get("version") != VERSION or type(state.get("step")) is not int:
        raise CheckpointError(f"{place / 'state.json'} is not a checkpoint's state of version {VERSION}.")
    digests = state.get("sha256")
    parts = []
    for name in ("model.safetensors", "optimizer.safetensors"):
        path = place / name
        try:
            found = file_digest(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
        if not isinstance(digests, dict) or digests.get(name) != found:
            raise CheckpointError(f"{path} is not what was written: its SHA-256 differs.")
        parts.append(read_tensors(path))
    return Checkpoint(state["step"], parts[0], parts[1], state)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def prune(folder: Path, keep: int = 2) -> None:
    """Delete all but the newest `keep` checkpoints and the one with the least validation loss, and what kills left."""
    for stale in folder.glob(".step-*"):
        shutil.rmtree(stale, ignore_errors=True)
    found = checkpoints(folder)
    losses = {path: loss for path in found if (loss := _validation_loss(path)) is not None}
    best = min(losses, key=losses.__getitem__, default=None)
    for path in found[keep:]:
        if path != best:
            shutil.rmtree(path, ignore_errors=True)


def _validation_loss(place: Path) -> float | None:
    try:
        loss = (read_json(place / "state.json").get("validation") or {}).get("loss")
    except CheckpointError:
        return None
    return loss if isinstance(loss, float) else None


def save_model(
    folder: Path,
    shape: Shape,
    tensors: Mapping[str, Tensor],
    tokenizer_json: bytes | None,
    info: Mapping[str, Any] | None = None,
    quantized: Quantized | None = None,
) -> None:
    """Write a model's folder, replacing one that is there when the new one is whole. Raises OSError.

    `tensors` by GGUF's names; they are stored as float32.
    """
    with beside(folder) as part:
        write_tensors(part / "model.safetensors", {name: tensor.float() for name, tensor in tensors.items()})
        write_file(part / "shape.json", json.dumps(shape.to_dict(), indent=1) + "\n")
        write_file(part / "info.json", json.dumps(dict(info or {}), indent=1) + "\n")
        if tokenizer_json is not None:
            write_file(part / "tokenizer.json", tokenizer_json)
        if quantized:
            write_blocks(part / "quantized.gguf", shape, quantized)


def load_run_model(path: Path) -> TrainedModel:
    """The model in a run's folder (the final one, or that of its newest whole checkpoint) or in a model's folder.

    Raises CheckpointError.
    """
    for folder in (path / "model", path):
        if (folder / "shape.json").is_file():
            info = read_json(folder / "info.json") if (folder / "info.json").is_file() else {}
            shape = _shape(read_json(folder / "shape.json"), folder / "shape.json")
            blocks = folder / "quantized.gguf"
            quantized = read_blocks(blocks, shape) if blocks.is_file() else {}
            return TrainedModel(shape, read_tensors(folder / "model.safetensors"), _tokenizer(folder), info, quantized)
    broken: CheckpointError | None = None
    for place in [path] if (path / "state.json").is_file() else checkpoints(path / "checkpoints"):
        try:
            found = load_checkpoint(place)
            shape = _shape(found.state.get("shape"), place / "state.json")
            return TrainedModel(shape, found.tensors, _tokenizer(place.parent.parent), {"step": found.step})
        except CheckpointError as error:
            broken = broken or error
    raise broken or CheckpointError(
        f"{path} holds no trained model: expected a run of `ingle train` with a checkpoint, or a model's folder."
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises CheckpointError."""
    try:
        value = json.loads(read_bytes(path, _JSON_LIMIT, CheckpointError))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not JSON.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return value


def _shape(values: object, path: Path) -> Shape:
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} has no shape.")
    try:
        return Shape.from_dict(values)
    except UsageError as error:
        raise CheckpointError(f"{path} does not describe a model: {error}") from None


def _tokenizer(folder: Path) -> bytes | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    return read_bytes(path, _TOKENIZER_LIMIT, CheckpointError)
