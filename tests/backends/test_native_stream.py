"""Blocks that are read from their file each time are those that were loaded once, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from ingle.backends import open_backend
from ingle.backends.base import Rows, Streaming
from ingle.errors import BackendError, UnsupportedError
from ingle.gguf import TensorType
from ingle.models.spec import Experts
from ingle.models.tensor import Tensor

CALLS = ((0, 12), (12, 13), (13, 14))  # of several rows, and of one


def test_which_backends_stream() -> None:
    assert isinstance(open_backend("native", SPECS["plain"], 1), Streaming)
    assert not isinstance(open_backend("reference", SPECS["plain"], 1), Streaming)


def reading_of(tensor: Tensor, room: _core.Room, at: int, **options: Any) -> _core.Reading:
    """A reading by the core itself, so that pieces can be small."""
    assert tensor.stored is not None
    n, k = tensor.shape
    file = _core.DirectFile(tensor.stored.file.descriptor)
    return _core.Reading(tensor.type.id, n, k, file, tensor.stored.offset, tensor.data.size, room, at, **options)


@pytest.mark.parametrize("biases", [False, True], ids=["", "biases"])
@pytest.mark.parametrize("name", SPECS)
def test_every_family(name: str, biases: bool, tmp_path: Path) -> None:
    spec = SPECS[name]
    decoder = random_decoder(spec, biases=biases and spec.experts is None)
    resident = Loaded(native(spec), decoder)
    streamed = Streamed(native(spec), decoder_in_file(decoder, tmp_path / "weights"), slice_rows=11)
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
    stored = decoder_in_file(decoder, tmp_path / "weights")
    streamed = Streamed(native(spec, threads), stored, helpers=3, slice_rows=19)
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
    stored, backend = decoder_in_file(decoder, tmp_path / "weights"), native(spec)
    output = backend.load_output(stored.output, backend.load_embedding_rows(stored.embedding))
    assert output.n_bytes >= 4 * spec.n_vocab * spec.n_embd


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
        lambda: backend.stream_output(decoder.output, 0, 5),
        lambda: backend.load_embedding_rows(decoder.embedding),
        lambda: native(SPECS["experts"]).stream_experts(random_decoder(SPECS["experts"]).feed_forward[0]),
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


@pytest.mark.parametrize("name", ["plain", "logit soft cap", "post norm"])
@pytest.mark.parametrize("slice_rows", [1, 16, 20, 36, 37])
def test_slices_of_the_output(name: str, slice_rows: int, tmp_path: Path) -> None:
    """In any number, in one state; of all rows and of some."""
    spec = SPECS[name]
    decoder = random_decoder(spec, biases=True)
    resident, backend = Loaded(native(spec), decoder), native(spec)
    streamed = Streamed(backend, decoder_in_file(decoder, tmp_path / "weights"), slice_rows=slice_rows)
    for rows in (Rows.of_slot(0, 0, [1, 2, 3]), Rows.of_slot(0, 0, [4])):
        expected = resident.forward(rows, resident.cache())
        assert np.array_equal(streamed.forward(rows, streamed.cache()), expected)
        state = backend.embed(streamed.embedding, rows, backend.new_cache(1, 9))
        wanted = np.zeros(1, np.int32)
        parts = [backend.logits(streamed.block(output), state, wanted) for output in streamed.outputs]
        whole = backend.logits(backend.load_output(decoder.output, None), state, wanted)
        assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_rows_that_an_output_does_not_have(tmp_path: Path) -> None:
    spec = SPECS["plain"]
    output = decoder_in_file(random_decoder(spec), tmp_path / "weights").output
    for start, stop in ((0, 0), (-1, 5), (5, 4), (30, 38)):
        with pytest.raises(BackendError, match=f"Rows {start}..{stop}"):
            native(spec).stream_output(output, start, stop)


def test_an_output_of_another_vocabulary_is_no_slice() -> None:
    model = Loaded(native(SPECS["plain"]), random_decoder(SPECS["plain"]))
    smaller = spec_of(n_vocab=30)
    other = Loaded(native(smaller), random_decoder(smaller))
    state = model.backend.embed(model.embedding, Rows.of_slot(0, 0, [1]), model.cache())
    with pytest.raises(BackendError, match="another model"):
        model.backend.logits(other.output, state, np.zeros(1, np.int32))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("type", [TensorType.Q8_0, TensorType.Q4_K], ids=lambda t: t.name)
def test_quantised_experts(type: TensorType, threads: int, tmp_path: Path) -> None:
    """Only those are read that some row chose."""
    experts = Experts(7, 2, 256)
    spec = spec_of(n_embd=256, experts=experts, head_dim=64, n_heads=4, schedule=(0, 1))
    decoder = random_decoder(spec, type=type)
    resident = Loaded(native(spec, threads), decoder)
    streamed = Streamed(native(spec, threads), decoder_in_file(decoder, tmp_path / "weights"), helpers=2)
    caches = resident.cache(), streamed.cache()
    tokens = random_tokens(spec, 32)
    for start, end in ((0, 30), (30, 31), (31, 32)):
        rows = Rows.of_slot(0, start, tokens[start:end])
        assert np.array_equal(streamed.forward(rows, caches[1]), resident.forward(rows, caches[0]))
    assert len(streamed.used) == 6
    assert all(chosen == sorted(set(chosen)) for chosen in streamed.used)
    assert [len(chosen) for chosen in streamed.used[2:]] == [2] * 4


def test_a_mixture_and_its_experts_as_sources(tmp_path: Path) -> None:
    spec = SPECS["experts"]
    decoder = decoder_in_file(random_decoder(spec), tmp_path / "weights")
    source = native(spec).stream_experts(decoder.feed_forward[0])
    assert len(source.experts) == 5
    assert source.kept_bytes == 4 * (32 * 16 + 32)  # the router fills a panel; and the norm
    for number, expert in enumerate(source.experts):
        assert expert.file_bytes == 3 * 4 * 24 * 32
        assert expert.kept_bytes == 0
        readings = begin(native(spec), expert)
        read_all(readings)
        for reading in readings:
            expected = decoder.feed_forward[0][reading.name].float32()[number]
            assert np.array_equal(reading.core.rows(), expected)  # type: ignore[attr-defined]


def test_a_streamed_mixture_says_how_large_it_is(tmp_path: Path) -> None:
    """As others, which a profile adds up: all of it, within what lines of 64 bytes leave over."""
    spec = SPECS["experts"]
    decoder = decoder_in_file(random_decoder(spec), tmp_path / "weights")
    backend = native(spec)
    block = backend.stream_experts(decoder.feed_forward[0]).block(lambda numbers: iter(()))
    whole = backend.load_feed_forward(decoder.feed_forward[0]).n_bytes
    assert whole <= block.n_bytes <= 1.2 * whole


def test_experts_come_in_their_turn(tmp_path: Path) -> None:
    """Those that the router chose, each once and in order, before anything else: nothing is left out unseen."""
    spec = SPECS["experts"]
    decoder = decoder_in_file(random_decoder(spec), tmp_path / "weights")
    streamed = Streamed(native(spec), decoder)
    backend, source, rows = streamed.backend, streamed.feed_forward[0], Rows.of_slot(0, 0, [1, 2])

    def run(order: Callable[[list[int]], list[int]]) -> Any:
        def use(chosen: Sequence[int]) -> Iterator[tuple[int, Any]]:
            for number in order(list(chosen)):
                yield number, streamed.block(source.experts[number])

        state = backend.embed(streamed.embedding, rows, streamed.cache())
        backend.feed_forward(source.block(use), state, 0)
        return state

    run(lambda chosen: chosen)
    wrong: list[Callable[[list[int]], list[int]]] = [
        lambda chosen: chosen[::-1],
        lambda chosen: chosen[1:],
        lambda chosen: [*chosen, chosen[-1]],
    ]
    for order in wrong:
        with pytest.raises(BackendError, match="came out of turn"):
            run(order)
    for n in (0, 1):
        state = run(lambda chosen, n=n: chosen[:n])  # type: ignore[misc]
        calls = [
            lambda state: backend.attention(streamed.block(streamed.attention[0]), state, 0),
            lambda state: backend.feed_forward(streamed.block(source), state, 0),
            lambda state: backend.logits(streamed.block(streamed.outputs[0]), state, np.zeros(1, np.int32)),
        ]
        for call in calls:
            with pytest.raises(BackendError, match="still lacks experts"):
                call(state)
    run(lambda chosen: chosen)


def test_a_mixture_is_no_dense_block(tmp_path: Path) -> None:
    spec = SPECS["experts"]
    mixture = decoder_in_file(random_decoder(spec), tmp_path / "mixture").feed_forward[0]
    with pytest.raises(BackendError, match="expert by expert"):
        native(spec).stream_feed_forward(mixture)
    dense = decoder_in_file(random_decoder(SPECS["plain"]), tmp_path / "dense").feed_forward[0]
    with pytest.raises(BackendError, match="this model is none"):
        native(SPECS["plain"]).stream_experts(dense)
    model = Loaded(native(SPECS["plain"]), random_decoder(SPECS["plain"]))
    state = model.backend.embed(model.embedding, Rows.of_slot(0, 0, [1]), model.cache())
    source = native(spec).stream_experts(mixture)
    with pytest.raises(BackendError, match="another model"):
        model.backend.feed_forward(source.block(lambda chosen: iter(())), state, 0)
