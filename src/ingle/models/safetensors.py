"""Reading safetensors files: a length, a JSON header, and bytes (https://github.com/huggingface/safetensors).

Own code because NumPy has no bfloat16 and because every number in the header is checked against the file before use.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingle.errors import CheckpointError, UnsupportedError
from ingle.gguf import TensorType

__all__ = ["RawTensor", "SafetensorsFile", "open_checkpoint_files"]

_MAX_HEADER_BYTES = 100 * 10**6  # the format's own limit
_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
#: NumPy types of the same width; bfloat16 travels as its bits.
NUMPY_TYPES: dict[TensorType, np.dtype[np.generic]] = {
    TensorType.F32: np.dtype("<f4"),
    TensorType.F16: np.dtype("<f2"),
    TensorType.BF16: np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A tensor of a safetensors file. data: uint8 [n_bytes], a view of the mapped file."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: NDArray[np.uint8]
    map: mmap.mmap


class SafetensorsFile:
    """One mapped file; `tensors` by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise CheckpointError(f"{path} cannot be read ({error}); download it again.") from None
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self.tensors = {name: self._tensor(name, entry) for name, entry in self._header().items()}

    def _header(self) -> dict[str, object]:
        size = len(self._bytes)
        n = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if size < 8 or n > min(size - 8, _MAX_HEADER_BYTES):
            raise self._damaged(f"its header would end at byte {8 + n}, after the end of the file at {size}")
        try:
            header = json.loads(self._bytes[8 : 8 + n].tobytes())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            raise self._damaged("its header is not JSON") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        self._start = 8 + n
        header.pop("__metadata__", None)
        return header

    def _tensor(self, name: str, entry: object) -> RawTensor:
        fields = entry if isinstance(entry, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
        if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
            raise self._damaged(f"tensor {name} has no dtype, shape and data_offsets")
        if dtype not in _TYPES:
            raise UnsupportedError(
                f"Tensor {name} in {self.path} has the type {dtype}; Ingle reads F32, F16 and BF16: get the checkpoint "
                "in one of those, or a GGUF file of the model."
            )
        kind = _TYPES[dtype]
        start, stop = (self._start + offset for offset in offsets)
        expected = math.prod(shape) * kind.bytes_per_block
        if stop - start != expected:
            raise self._damaged(
                f"tensor {name} has {stop - start} bytes where its shape {list(shape)} needs {expected}"
            )
        if stop > len(self._bytes):
            raise self._damaged(f"tensor {name} ends at byte {stop} of a file that has {len(self._bytes)}")
        return RawTensor(name, shape, kind, self._bytes[start:stop], self._map)

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is incomplete or damaged: {what}; download it again.")


def _counts(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers from 0 as a tuple; None where it is anything else."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**62 for n in value):
        return None
    return tuple(value)


def open_checkpoint_files(directory: Path) -> dict[str, RawTensor]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.

    Raises CheckpointError when a shard is missing or damaged, or a listed tensor is not in its shard.
    """
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return _open_shards(directory, index)
    files = sorted(directory.glob("*.safetensors"))
    single = directory / "model.safetensors"
    if single in files or len(files) == 1:
        return SafetensorsFile(single if single in files else files[0]).tensors
    if files:
        raise CheckpointError(
            f"{directory} has {len(files)} safetensors files but no model.safetensors.index.json that says which "
            "tensor is where; download the index too."
        )
    pickled = [*directory.glob("*.bin"), *directory.glob("*.pth"), *directory.glob("*.pt")]
    if pickled:
        raise CheckpointError(
            f"{directory} has only pickled weights ({pickled[0].name}), which can run any code when they are opened, "
            "so Ingle does not open them; get the model as safetensors or GGUF."
        )
    raise CheckpointError(f"{directory} has no model.safetensors; expected a Hugging Face checkpoint or a GGUF file.")


def _open_shards(directory: Path, index: Path) -> dict[str, RawTensor]:
    try:
        where = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = {str(name): str(file) for name, file in where.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} cannot be read or has no weight_map; download it again.") from None
    opened: dict[str, SafetensorsFile] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} points outside its own directory ({shard}); expected plain file names.")
        if not (directory / shard).is_file():
            raise CheckpointError(f"{directory / shard} is missing, although {index.name} lists it; download it too.")
        opened[shard] = SafetensorsFile(directory / shard)
    missing = next((name for name, shard in shards.items() if name not in opened[shard].tensors), None)
    if missing is not None:
        raise CheckpointError(
            f"Tensor {missing} is not in {directory / shards[missing]}, where {index.name} says it is; download both "
            "again."
        )
    return {name: opened[shard].tensors[name] for name, shard in shards.items()}
