"""Decoders whose tensors lie in a file, and the loop over blocks that are read from it each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.decoders import Array, Decoder, Tensors
from ingle import _core
from ingle.backends.base import BlockSource, Cache, Reading, Rows
from ingle.backends.native import NativeBackend
from ingle.backends.native_stream import NativeMixture
from ingle.gguf import FileBytes, TensorType
from ingle.gguf.reader import OpenFile
from ingle.models.spec import Spec
from ingle.models.tensor import Tensor

GAP = 37  # bytes between tensors, so that they begin anywhere


def native(spec: Spec, threads: int = 1) -> NativeBackend:
    return NativeBackend(spec, threads)


def random_matrix(name: str, n: int, k: int, type: TensorType, seed: int = 0) -> Tensor:
    """Of any bits at all: also of scales that are no numbers."""
    data = np.random.default_rng((seed, n, k)).integers(0, 256, type.n_bytes((n, k)), dtype=np.uint8)
    return Tensor(name, (n, k), type, data)


def values_of(tensor: Tensor) -> NDArray[np.uint32]:
    """The bits of its values, dequantised from planes that lie in ordinary memory."""
    return _core.matrix_rows(tensor.type.id, *tensor.shape, tensor.data).view(np.uint32)


def values_read(reading: _core.Reading) -> NDArray[np.uint32]:
    """The bits of the values that lie in a room."""
    return reading.rows().view(np.uint32)


def in_file(path: Path, tensors: Sequence[Tensor], gap: int = GAP) -> list[Tensor]:
    """The same tensors, to be read from a file that is made of them."""
    with path.open("wb") as file:
        places = []
        for tensor in tensors:
            file.write(b"\xee" * gap)
            places.append(file.tell())
            file.write(tensor.data.tobytes())
    opened = OpenFile(path)
    unused = [np.zeros_like(tensor.data) for tensor in tensors]
    return [
        replace(tensor, stored=FileBytes(opened, at, tensor.data.size), data=data)
        for tensor, data, at in zip(tensors, unused, places, strict=True)
    ]


def decoder_in_file(decoder: Decoder, path: Path) -> Decoder:
    """All blocks of a decoder in one file."""
    blocks: list[Tensors] = [decoder.embedding, *decoder.attention, *decoder.feed_forward, decoder.output]
    stored = iter(in_file(path, [tensor for block in blocks for tensor in block.values()]))
    embedding, *middle, output = [{role: next(stored) for role in block} for block in blocks]
    n = len(decoder.attention)
    return Decoder(decoder.spec, embedding, middle[:n], middle[n:], output)


def read_all(readings: Sequence[Reading], helpers: int = 1) -> None:
    """Every piece of some readings, by so many threads."""
    for reading in readings:
        threads = [Thread(target=reading.help) for _ in range(helpers - 1)]
        for thread in threads:
            thread.start()
        reading.help()
        for thread in threads:
            thread.join()
        assert reading.done


def begin(backend: NativeBackend, source: BlockSource, skip: int = 0, room: _core.Room | None = None) -> list[Reading]:
    """Readings of all matrices one after the other into a room; without one, into one that they fill."""
    room = backend.new_room(skip + sum(source.sizes)) if room is None else room
    ends = np.cumsum((skip, *source.sizes))
    return [source.begin(i, room, int(at)) for i, at in enumerate(ends[:-1])]


def block_of(backend: NativeBackend, source: BlockSource, helpers: int = 1) -> Any:
    """The block, read now."""
    readings = begin(backend, source, skip=64)
    read_all(readings, helpers)
    return source.make(readings)


class Streamed:
    """A decoder's weights in their file, read whenever they are used; the output in slices of so many rows."""

    def __init__(self, backend: NativeBackend, decoder: Decoder, helpers: int = 1, slice_rows: int = 1 << 31) -> None:
        self.backend, self.decoder, self.helpers = backend, decoder, helpers
        self.embedding = backend.load_embedding_rows(decoder.embedding)
        self.attention = [backend.stream_attention(block) for block in decoder.attention]
        mixture = decoder.spec.experts is not None
        stream: Callable[[Tensors], Any] = backend.stream_experts if mixture else backend.stream_feed_forward
        self.feed_forward = [stream(block) for block in decoder.feed_forward]
        n = decoder.spec.n_vocab
        self.outputs = [
            backend.stream_output(decoder.output, start, min(start + slice_rows, n))
            for start in range(0, n, slice_rows)
        ]
        self.used: list[list[int]] = []  # the experts that were read, block by block

    def cache(self, n_slots: int = 1, context: int = 64, kv_type: Any = "f32") -> Cache:
        return self.backend.new_cache(n_slots, context, kv_type)

    def forward(self, rows: Rows, cache: Cache) -> Array:
        """Logits of all rows."""
        backend = self.backend
        state = backend.embed(self.embedding, rows, cache)
        for p, layer in enumerate(self.decoder.spec.schedule):
            backend.attention(self.block(self.attention[layer]), state, p)
            backend.feed_forward(self.block(self.feed_forward[layer]), state, p)
        every = np.arange(len(rows), dtype=np.int32)
        return np.concatenate([backend.logits(self.block(output), state, every) for output in self.outputs], axis=1)

    def block(self, source: Any) -> Any:
        if isinstance(source, NativeMixture):
            return source.block(lambda chosen: self.experts(source, chosen))
        return block_of(self.backend, source, self.helpers)

    def experts(self, source: NativeMixture, chosen: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """One after the other, in the same bytes."""
        self.used.append(list(chosen))
        room = self.backend.new_room(max(sum(expert.sizes) for expert in source.experts))
        for number in chosen:
            readings = begin(self.backend, source.experts[number], room=room)
            read_all(readings, self.helpers)
            yield number, source.experts[number].make(readings)
