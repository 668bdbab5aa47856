"""A block's tensors as the native core takes them: matrices, each expert's by itself, and vectors of floats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ingle import _core
from ingle.errors import BackendError
from ingle.models.tensor import Tensor

__all__ = ["EXPERTS", "load", "matrices_of", "vectors_of"]

_MATRICES = frozenset({"weight", "q", "k", "v", "o", "gate", "up", "down", "router"})
EXPERTS = frozenset({"gate_experts", "up_experts", "down_experts"})


def matrices_of(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each matrix [n, k] with its role; that of expert 3 is called "up_experts.3". BackendError for another shape."""
    for role, tensor in tensors.items():
        if role in _MATRICES:
            if len(tensor.shape) != 2:
                raise BackendError(f"Tensor {tensor.name} has the shape {tensor.shape}; expected a matrix for {role}.")
            yield role, tensor
        elif role in EXPERTS:
            if len(tensor.shape) != 3:
                raise BackendError(f"Tensor {tensor.name} has the shape {tensor.shape}; expected matrices for {role}.")
            for i in range(tensor.shape[0]):
                yield f"{role}.{i}", replace(tensor.rows(i, i + 1), shape=tensor.shape[1:])


def vectors_of(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Everything else by role: float32, one dimension."""
    return {
        role: np.ascontiguousarray(tensor.float32(), np.float32).reshape(-1)
        for role, tensor in tensors.items()
        if role not in _MATRICES | EXPERTS
    }


def load(decoder: _core.Decoder, tensors: Mapping[str, Tensor]) -> _core.Weights:
    """All of them in memory, rearranged into bit planes. GGUFError when the file they lie in cannot be read."""
    weights = _core.Weights()
    for role, tensor in matrices_of(tensors):
        n, k = tensor.shape
        stored = tensor.stored
        if stored is None:
            weights.add_matrix(decoder, role, tensor.type.id, n, k, np.ascontiguousarray(tensor.data))
            continue
        file = stored.file.descriptor
        try:
            weights.read_matrix(decoder, role, tensor.type.id, n, k, file, stored.offset, stored.n_bytes)
        except OSError as error:
            raise stored.unreadable(error) from None
    for role, values in vectors_of(tensors).items():
        weights.add_vector(role, values)
    return weights
