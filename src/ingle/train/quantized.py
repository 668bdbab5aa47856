"""Blocks that calibrated quantisation found, kept beside a model's weights in a GGUF file of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ingle.errors import CheckpointError
from ingle.gguf import TensorToWrite, TensorType, open_gguf, write_gguf
from ingle.train.parameters import parameter_shapes
from ingle.train.shape import Shape

__all__ = ["Quantized", "read_blocks", "write_blocks"]

#: GGUF name -> the type, and the bytes of all rows in the order of the model's own tensors.
Quantized = Mapping[str, tuple[TensorType, bytes]]


def write_blocks(path: Path, shape: Shape, quantized: Quantized) -> None:
    """Write `quantized` to a GGUF file. Raises UsageError where the bytes are not as many as type and shape say."""
    shapes = parameter_shapes(shape)
    entries = [TensorToWrite(name, shapes[name], kind, _all(data)) for name, (kind, data) in quantized.items()]
    write_gguf(path, {"general.type": "quantized tensors"}, entries)


def read_blocks(path: Path, shape: Shape) -> dict[str, tuple[TensorType, bytes]]:
    """The blocks in a file of `write_blocks`. Raises GGUFError, and CheckpointError for tensors of another model."""
    shapes = parameter_shapes(shape)
    with open_gguf(path) as file:
        for name, info in file.tensors.items():
            if tuple(info.shape) != shapes.get(name):
                raise CheckpointError(f"Tensor {name} in {path} is none of this model; compress the model again.")
        return {name: (info.type, info.data.tobytes()) for name, info in file.tensors.items()}


def _all(data: bytes) -> Callable[[], list[bytes]]:
    return lambda: [data]
