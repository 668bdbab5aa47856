"""Native blocks that are read from their files again and again: `ingle.backends.base.Streaming`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ingle import _core
from ingle.backends.native_weights import EXPERTS, load, matrices_of, vectors_of
from ingle.errors import BackendError, UnsupportedError
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

if TYPE_CHECKING:
    from ingle.backends.base import Reading, State, UseExperts
    from ingle.gguf import FileBytes
    from ingle.gguf.reader import OpenFile

__all__ = ["EmbeddingRows", "NativeMixture", "NativeReading", "NativeSource", "NativeStreaming", "StreamedMixture"]


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """Where a matrix lies: n rows of k values in a file."""

    name: str
    type_id: int
    n: int
    k: int
    bytes: FileBytes
    file: _core.DirectFile
    #: bytes that it takes in a room
    size: int


class NativeReading:
    """A matrix on its way into a room; see `ingle.backends.base.Reading`."""

    def __init__(self, stored: _Stored, room: _core.Room, at: int) -> None:
        self.stored = stored
        self.core = _core.Reading(
            stored.type_id, stored.n, stored.k, stored.file, stored.bytes.offset, stored.bytes.n_bytes, room, at
        )

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def file_bytes(self) -> int:
        return self.stored.bytes.n_bytes

    @property
    def read_s(self) -> float:
        return self.core.read_s

    @property
    def arrange_s(self) -> float:
        return self.core.arrange_s

    @property
    def done(self) -> bool:
        return self.core.done

    def help(self) -> None:
        """Read and rearrange pieces until none is left to begin; without the GIL."""
        try:
            self.core.help()
        except OSError as error:
            raise self.stored.bytes.unreadable(error) from None

    def cancel(self) -> None:
        """Begin no further piece."""
        self.core.cancel()


class NativeSource:
    """Where a block comes from; see `ingle.backends.base.BlockSource`. Its vectors are read once, and kept."""

    def __init__(
        self,
        matrices: Mapping[str, _Stored],
        vectors: Mapping[str, NDArray[np.float32]],
        gather: Callable[[_core.Weights], Any],
    ) -> None:
        """`gather` makes the block of its weights."""
        self._roles = list(matrices)
        self._matrices = list(matrices.values())
        self._vectors = vectors
        self._gather = gather
        self._files = {stored.bytes.file for stored in self._matrices}
        self.sizes = tuple(stored.size for stored in self._matrices)
        self.file_bytes = sum(stored.bytes.n_bytes for stored in self._matrices)
        self.kept_bytes = sum(vector.nbytes for vector in vectors.values())

    def begin(self, index: int, room: _core.Room, at: int) -> NativeReading:
        """Matrix `index` into the room from byte `at` on. BackendError where it does not fit there."""
        return NativeReading(self._matrices[index], room, at)

    def make(self, readings: Sequence[Reading]) -> Any:
        """The block from its matrices; GGUFError when their file was written to since it was opened."""
        weights = _core.Weights()
        for role, stored, reading in zip(self._roles, self._matrices, readings, strict=True):
            if not isinstance(reading, NativeReading) or reading.stored is not stored:
                raise BackendError(f"A reading of {reading.name} came where one of {stored.name} was expected.")
            weights.add_reading(role, reading.core)
        for role, vector in self._vectors.items():
            weights.add_vector(role, vector)
        for file in self._files:  # after all was read: what is computed with was in the file that was opened
            file.check_unchanged()
        return self._gather(weights)


@dataclass(frozen=True, slots=True, eq=False)
class StreamedMixture:
    """What `feed_forward` takes for a mixture whose experts are read when the router has chosen them.

    n_bytes: of all of them, as if they were in memory.
    """

    shell: _core.MixtureShell
    use: UseExperts
    n_bytes: int

    def run(self, decoder: _core.Decoder, state: State, pass_index: int) -> None:
        """`feed_forward`. What `use` raises goes through; the state is then good for nothing more."""
        chosen = decoder.route(self.shell, state, pass_index)
        for number, expert in self.use(chosen):
            decoder.run_expert(expert, state, number)


@dataclass(frozen=True, slots=True, eq=False)
class NativeMixture:
    """Where a mixture comes from; see `ingle.backends.base.MixtureSource`."""

    shell: _core.MixtureShell
    experts: Sequence[NativeSource]

    @property
    def kept_bytes(self) -> int:
        return self.shell.n_bytes

    def block(self, use: UseExperts) -> StreamedMixture:
        """What `feed_forward` takes. It calls `use` once, with what the router chose."""
        return StreamedMixture(self.shell, use, self.kept_bytes + sum(sum(expert.sizes) for expert in self.experts))


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingRows:
    """An embedding whose rows stay in their file."""

    stored: FileBytes
    held: _core.Embedding
    n_bytes: int

    def read(self, embed: Callable[[_core.Embedding], _core.State]) -> _core.State:
        """What `embed` gives, which reads rows. GGUFError when it cannot, or the file was written to."""
        try:
            state = embed(self.held)
        except OSError as error:
            raise self.stored.unreadable(error) from None
        self.stored.file.check_unchanged()
        return state


class NativeStreaming:
    """What makes the native backend one of `ingle.backends.base.Streaming`."""

    _decoder: _core.Decoder

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._files: WeakKeyDictionary[OpenFile, _core.DirectFile] = WeakKeyDictionary()

    def new_room(self, n_bytes: int) -> _core.Room:
        """Memory for matrices that come and go; MemoryLimitError where there is none."""
        try:
            return _core.Room(n_bytes)
        except TypeError:
            raise BackendError(f"Expected a number of bytes for a room; came {n_bytes!r}.") from None

    def stream_attention(self, tensors: Mapping[str, Tensor]) -> NativeSource:
        return self._source(tensors, self._decoder.make_attention)

    def stream_feed_forward(self, tensors: Mapping[str, Tensor]) -> NativeSource:
        if self.spec.experts is not None:
            raise BackendError("A mixture of experts is read expert by expert; expected a feed-forward without them.")
        return self._source(tensors, self._decoder.make_feed_forward)

    def stream_experts(self, tensors: Mapping[str, Tensor]) -> NativeMixture:
        """A source of which each expert's matrices are read by themselves."""
        shell = {role: tensor for role, tensor in tensors.items() if role not in EXPERTS}
        experts: list[dict[str, _Stored]] = []
        for name, tensor in matrices_of({role: tensor for role, tensor in tensors.items() if role in EXPERTS}):
            role, number = name.split("_experts.")
            experts += [{} for _ in range(int(number) + 1 - len(experts))]
            experts[int(number)][role] = self._stored(tensor)
        return NativeMixture(
            self._decoder.make_mixture_shell(load(self._decoder, shell)),
            [NativeSource(matrices, {}, self._decoder.make_expert) for matrices in experts],
        )

    def stream_output(self, tensors: Mapping[str, Tensor], start: int, stop: int) -> NativeSource:
        """Rows [start, stop) of the output matrix. The source keeps the norm, and the bias of these rows."""
        if not 0 <= start < stop <= self.spec.n_vocab:
            raise BackendError(
                f"Rows {start}..{stop} of an output that has {self.spec.n_vocab}; expected at least one."
            )
        cut = {role: tensors[role].rows(start, stop) for role in ("weight", "bias") if role in tensors}
        return self._source({**tensors, **cut}, lambda weights: self._decoder.make_output(weights, stop - start))

    def load_embedding_rows(self, tensors: Mapping[str, Tensor]) -> EmbeddingRows:
        weights, vectors = _core.Weights(), vectors_of(tensors)
        for role, vector in vectors.items():
            weights.add_vector(role, vector)
        for role, tensor in matrices_of(tensors):
            m = self._stored(tensor)
            weights.add_rows(role, m.type_id, m.n, m.k, m.file, m.bytes.offset, m.bytes.n_bytes)
        embedding = self._decoder.make_embedding(weights)  # refuses other matrices than one
        return EmbeddingRows(m.bytes, embedding, sum(vector.nbytes for vector in vectors.values()))

    def _source(self, tensors: Mapping[str, Tensor], gather: Callable[[_core.Weights], Any]) -> NativeSource:
        matrices = {role: self._stored(tensor) for role, tensor in matrices_of(tensors)}
        return NativeSource(matrices, vectors_of(tensors), gather)

    def _stored(self, tensor: Tensor) -> _Stored:
        stored = tensor.stored
        if stored is None:
            raise UnsupportedError(
                f"Tensor {tensor.name} can only be read whole, but a model larger than memory is read piece by piece: "
                "convert it to GGUF first (ingle convert)."
            )
        n, k = tensor.shape
        try:
            size = _core.matrix_bytes(tensor.type.id, n, k)
        except ValueError as error:
            raise UnsupportedError(str(error)) from None
        file = self._files.get(stored.file)
        if file is None:
            try:
                file = self._files[stored.file] = _core.DirectFile(stored.file.descriptor)
            except OSError as error:
                raise stored.unreadable(error) from None
        return _Stored(tensor.name, tensor.type.id, n, k, stored, file, size)
