"""A backend that streams in NumPy: the reference, with matrices that lie in rooms, so that reuse too early is seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ingle.backends.reference import ReferenceBackend
from ingle.models.tensor import Tensor


class FakeReading:
    """Copies a matrix into its place, when one of the helpers comes to it."""

    def __init__(self, tensor: Tensor, room: np.ndarray, at: int, on_read: Callable[[str], None]) -> None:
        self.name = tensor.name
        self.file_bytes = tensor.data.size
        self.read_s = self.arrange_s = 0.0
        self.done = False
        self._tensor, self._room, self._at, self._on_read = tensor, room, at, on_read
        self._lock = threading.Lock()
        self._begun = False
        values = tensor.float32()
        self.array = room[at : at + values.nbytes].view(np.float32).reshape(values.shape)

    def help(self) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
        self.array[:] = np.nan  # half written
        self._on_read(self.name)
        self.array[:] = self._tensor.float32()
        self.done = True

    def cancel(self) -> None:
        with self._lock:
            self._begun = True


class FakeSource:
    def __init__(self, tensors: Mapping[str, Tensor], on_read: Callable[[str], None]) -> None:
        self._matrices = {role: tensor for role, tensor in tensors.items() if len(tensor.shape) > 1}
        self._vectors = {role: tensor.float32() for role, tensor in tensors.items() if len(tensor.shape) == 1}
        self.sizes = tuple(-(-4 * int(np.prod(t.shape)) // 64) * 64 for t in self._matrices.values())
        self.file_bytes = sum(t.data.size for t in self._matrices.values())
        self.kept_bytes = sum(v.nbytes for v in self._vectors.values())
        self._on_read = on_read

    def begin(self, index: int, room: np.ndarray, at: int) -> FakeReading:
        return FakeReading(list(self._matrices.values())[index], room, at, self._on_read)

    def make(self, readings: Sequence[Any]) -> Mapping[str, np.ndarray]:
        assert all(reading.done for reading in readings)
        return self._vectors | {role: r.array for role, r in zip(self._matrices, readings, strict=True)}


class StreamingReference(ReferenceBackend):
    """`reads` has the names of tensors in the order in which they were read. `delay_s`: of each."""

    delay_s = 0.0
    fail: Callable[[str], None] | None = None

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.reads: list[str] = []

    def _read(self, name: str) -> None:
        self.reads.append(name)
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.fail is not None:
            self.fail(name)

    def new_room(self, n_bytes: int) -> np.ndarray:
        return np.zeros(n_bytes, np.uint8)

    def stream_attention(self, tensors: Mapping[str, Tensor]) -> FakeSource:
        return FakeSource(tensors, self._read)

    stream_feed_forward = stream_attention

    def stream_output(self, tensors: Mapping[str, Tensor], start: int, stop: int) -> FakeSource:
        cut = {role: t.rows(start, stop) if role in ("weight", "bias") else t for role, t in tensors.items()}
        return FakeSource(cut, self._read)

    def stream_experts(self, tensors: Mapping[str, Tensor]) -> Any:
        raise NotImplementedError

    def load_embedding_rows(self, tensors: Mapping[str, Tensor]) -> Any:
        return self.load_embedding(tensors)
