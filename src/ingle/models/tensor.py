"""A tensor as it lies in a file: its bytes, its type, its shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingle.errors import BackendError
from ingle.gguf import FileBytes, TensorType, dequantize

__all__ = ["Tensor"]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Bytes of a GGML type with a shape in NumPy order (rows first); usually a view over a memory map, never a copy.

    data: uint8 [n_bytes], one dimension, C order. The last dimension is the one that is quantised in groups.
    stored: where the same bytes can be read, for those that need each once: touching all of a map costs as much as
    reading, leaves it in memory, and ends the process when the file was cut short meanwhile.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: NDArray[np.uint8]
    stored: FileBytes | None = None

    @staticmethod
    def from_float32(name: str, values: NDArray[np.float32]) -> Tensor:
        """A float32 tensor over (a C-ordered copy of) `values`."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        return Tensor(name, values.shape, TensorType.F32, values.reshape(-1).view(np.uint8))

    def float32(self) -> NDArray[np.float32]:
        """The values, float32 of this shape: always a copy."""
        return dequantize(self.data if self.stored is None else self.stored.read(), self.type, self.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the first dimension: a view (rows are whole groups, so bytes can be cut)."""
        n = self.shape[0]
        if not 0 <= start <= stop <= n:
            raise BackendError(f"Rows {start}..{stop} of tensor {self.name}, which has {n}.")
        row_bytes = self.data.size // n
        first, last = start * row_bytes, stop * row_bytes
        stored = None if self.stored is None else self.stored.part(first, last)
        return Tensor(self.name, (stop - start, *self.shape[1:]), self.type, self.data[first:last], stored)
