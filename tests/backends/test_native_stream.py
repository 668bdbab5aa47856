"""Blocks that are read from their file each time are those that were loaded once, bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.decoders import SPECS, Loaded, random_decoder, random_tokens, spec_of
from backends.streamed import (
    Streamed,
    begin,
    decoder_in_file,
    in_file,
    native,
    random_matrix,
    read_all,
    values_of,
    values_read,
)
from ingle import _core
from ingle.backends.base import Rows
from ingle.errors import BackendError, UnsupportedError
from ingle.gguf import TensorType
from ingle.models.tensor import Tensor

DENSE = [name for name, spec in SPECS.items() if spec.experts is None]
CALLS = ((0, 12), (12, 13), (13, 14))  # of several rows, and of one


def reading_of(tensor: Tensor, room: _core.Room, at: int, **options: Any) -> _core.Reading:
    """A reading by the core itself, so that pieces can be small."""
    assert tensor.stored is not None
    n, k = tensor.shape
    file = _core.DirectFile(tensor.stored.file.descriptor)
    return _core.Reading(tensor.type.id, n, k, file, tensor.stored.offset, tensor.data.size, room, at, **options)


@pytest.mark.parametrize("biases", [False, True], ids=["", "biases"])
@pytest.mark.parametrize("name", DENSE)
def test_every_family(name: str, biases: bool, tmp_path: Path) -> None:
    spec = SPECS[name]
    decoder = random_decoder(spec, biases=biases)
    resident = Loaded(native(spec), decoder)
    streamed = Streamed(native(spec), decoder_in_file(decoder, tmp_path / "weights"))
    caches = resident.cache(), streamed.cache()
    tokens = random_tokens(spec, 14)
    for start, end in CALLS:
        rows = Rows.of_slot(0, start, tokens[start:end])
        assert np.array_equal(streamed.forward(rows, caches[1]), resident.forward(rows, caches[0]))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("type", [t for t in TensorType if t is not TensorType.MXFP4], ids=lambda t: t.name)
def test_products_of_every_type(type: TensorType, threads: int, tmp_path: Path) -> None:
    spec = spec_of(n_embd=256, n_ff=512, n_heads=4, head_dim=64, n_vocab=67, schedule=(0,))
    decoder = random_decoder(spec, type=type)
    resident = Loaded(native(spec, threads), decoder)
    streamed = Streamed(native(spec, threads), decoder_in_file(decoder, tmp_path / "weights"), helpers=3)
    caches = resident.cache(), streamed.cache()
    for start, end in ((0, 40), (40, 41)):
        rows = Rows.of_slot(0, start, random_tokens(spec, end - start))
        assert np.array_equal(streamed.forward(rows, caches[1]), resident.forward(rows, caches[0]))


@pytest.mark.parametrize("piece_bytes", [1, 5000, 1 << 20])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("type", list(TensorType), ids=lambda t: t.name)
def test_every_type_and_shape(type: TensorType, n: int, piece_bytes: int, tmp_path: Path) -> None:
    """Of any bits: from anywhere in the file, to the second line of a room that is filled to the last byte."""
    for k in (256, 768) if type.weights_per_block == 256 else (32, 96, 1120) if type.is_quantized else (1, 37, 160):
        (tensor,) = in_file(tmp_path / "weights", [random_matrix("w", n, k, type)])
        size = _core.matrix_bytes(type.id, n, k)
        reading = reading_of(tensor, _core.Room(64 + size), 64, piece_bytes=piece_bytes)
        assert not reading.done
        reading.help()
        assert reading.done
        assert np.array_equal(values_read(reading), values_of(random_matrix("w", n, k, type)))
        assert min(reading.read_s, reading.arrange_s) > 0


def test_several_matrices_lie_in_one_room(tmp_path: Path) -> None:
    """Each in its own bytes, beside each other; and again, when others were there before."""
    matrices = [random_matrix(f"w{i}", 16 * i + 5, 64, TensorType.Q8_0, seed=i) for i in range(1, 5)]
    tensors = in_file(tmp_path / "weights", matrices)
    sizes = [_core.matrix_bytes(8, *tensor.shape) for tensor in tensors]
    room = _core.Room(sum(sizes))
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        ends = np.cumsum([0, *(sizes[i] for i in order)])
        readings = [reading_of(tensors[i], room, int(at)) for i, at in zip(order, ends[:-1], strict=True)]
        for reading in readings:
            reading.help()
        for i, reading in zip(order, readings, strict=True):
            assert np.array_equal(values_read(reading), values_of(matrices[i]))


def test_helpers_share_the_pieces(tmp_path: Path) -> None:
    """Many threads at one matrix of many pieces, again and again."""
    original = random_matrix("w", 1000, 320, TensorType.Q4_0)
    (tensor,) = in_file(tmp_path / "weights", [original])
    room = _core.Room(_core.matrix_bytes(2, 1000, 320))
    for _ in range(20):
        reading = reading_of(tensor, room, 0, piece_bytes=4000)
        read_all([reading], helpers=7)
        assert np.array_equal(values_read(reading), values_of(original))


@pytest.mark.parametrize("type", list(TensorType), ids=lambda t: t.name)
def test_rows_of_an_embedding(type: TensorType, tmp_path: Path) -> None:
    """Of any bits, in any order, several times; the last row is where the file ends."""
    spec = spec_of(n_vocab=50, n_embd=256, schedule=(0,))
    (tensor,) = in_file(tmp_path / "weights", [random_matrix("weight", 50, 256, type)])
    output = random_decoder(spec).output
    backend = native(spec, 2)
    whole = backend.load_embedding({"weight": random_matrix("weight", 50, 256, type)})
    single = backend.load_embedding_rows({"weight": tensor})
    assert single.n_bytes == 0
    made = backend.load_output(output, whole)
    every = np.arange(9, dtype=np.int32)
    rows = Rows.of_slot(0, 0, [49, 0, 17, 49, 16, 15, 3, 3, 48])
    got, expected = (
        backend.logits(made, backend.embed(embedding, rows, backend.new_cache(1, 9)), every)
        for embedding in (single, whole)
    )
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_a_tied_output_beside_rows_of_the_embedding(tmp_path: Path) -> None:
    """There is no matrix to share, so that it loads its own."""
    spec = SPECS["tied"]
    decoder = random_decoder(spec)
    streamed = Streamed(native(spec), decoder_in_file(decoder, tmp_path / "weights"))
    assert streamed.output.n_bytes >= 4 * spec.n_vocab * spec.n_embd


def test_what_a_source_says(tmp_path: Path) -> None:
    spec = spec_of(n_embd=64, n_ff=64, n_heads=2, head_dim=32)
    decoder = decoder_in_file(random_decoder(spec, biases=True, type=TensorType.Q8_0), tmp_path / "weights")
    source = native(spec).stream_attention(decoder.attention[0])
    matrices = [tensor for tensor in decoder.attention[0].values() if len(tensor.shape) == 2]
    vectors = [tensor for tensor in decoder.attention[0].values() if len(tensor.shape) == 1]
    assert len(source.sizes) == len(matrices) == 4
    assert all(size % 64 == 0 for size in source.sizes)
    assert source.sizes == tuple(_core.matrix_bytes(8, *tensor.shape) for tensor in matrices)
    assert source.file_bytes == sum(tensor.data.size for tensor in matrices)
    assert source.kept_bytes == sum(4 * math.prod(tensor.shape) for tensor in vectors)
    backend = native(spec)
    readings = begin(backend, source)
    assert [reading.name for reading in readings] == [tensor.name for tensor in matrices]
    assert sum(reading.file_bytes for reading in readings) == source.file_bytes


def test_a_block_keeps_its_room(tmp_path: Path) -> None:
    spec = SPECS["plain"]
    decoder = random_decoder(spec)
    backend = native(spec)
    source = backend.stream_attention(decoder_in_file(decoder, tmp_path / "weights").attention[0])
    readings = begin(backend, source)
    read_all(readings)
    block = source.make(readings)
    del readings, source
    rooms = [backend.new_room(1 << 22) for _ in range(4)]  # memory that was given back would be found by one of these
    model = Loaded(backend, decoder)
    rows, deltas = Rows.of_slot(0, 0, [1, 2, 3]), []
    for attention in (model.attention[0], block):
        state = backend.embed(model.embedding, rows, model.cache())
        backend.attention(attention, state, 0)
        deltas.append(state.delta.copy())
    assert np.array_equal(*deltas)
    assert all(room.n_bytes == 1 << 22 for room in rooms)


def test_what_no_file_holds_is_refused() -> None:
    spec = SPECS["plain"]
    decoder, backend = random_decoder(spec), native(spec)
    for call in (
        lambda: backend.stream_attention(decoder.attention[0]),
        lambda: backend.stream_feed_forward(decoder.feed_forward[0]),
        lambda: backend.load_embedding_rows(decoder.embedding),
    ):
        with pytest.raises(UnsupportedError, match="convert it to GGUF first"):
            call()


def test_unsound_blocks(tmp_path: Path) -> None:
    spec = SPECS["plain"]
    backend = native(spec)
    block = decoder_in_file(random_decoder(spec), tmp_path / "weights").attention[0]
    for other, words in (
        (block | {"k": block["q"]}, r"k of shape \[60, 32\]; expected \[20, 32\]"),
        ({role: tensor for role, tensor in block.items() if role != "k"}, "lacks the matrix k"),
    ):
        source = backend.stream_attention(other)
        readings = begin(backend, source)
        read_all(readings)
        with pytest.raises(BackendError, match=words):
            source.make(readings)
    cut = replace(block["k"], type=TensorType.Q4_0, shape=(20, 33))
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        backend.stream_attention(block | {"k": cut})
    longer = replace(block["k"], shape=(21, 32))
    with pytest.raises(BackendError, match="expected rows of 128 bytes"):
        begin(backend, backend.stream_attention(block | {"k": longer}))


def test_a_mixture_is_no_dense_block(tmp_path: Path) -> None:
    spec = SPECS["experts"]
    decoder = decoder_in_file(random_decoder(spec), tmp_path / "weights")
    with pytest.raises(BackendError, match="expert by expert"):
        native(spec).stream_feed_forward(decoder.feed_forward[0])
