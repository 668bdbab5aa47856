"""Files that change, end or vanish while they are read, rooms that are too small, and readings that are called off."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
import pytest

from backends.decoders import SPECS, random_decoder
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
from ingle.errors import BackendError, GGUFError, MemoryLimitError
from ingle.gguf import TensorType
from ingle.models.tensor import Tensor

SPEC = SPECS["plain"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def reading_of(tensor: Tensor, file: _core.DirectFile, piece_bytes: int = 1 << 19) -> _core.Reading:
    assert tensor.stored is not None
    size = _core.matrix_bytes(tensor.type.id, *tensor.shape)
    place = (tensor.stored.offset, tensor.data.size, _core.Room(size), 0, piece_bytes)
    return _core.Reading(tensor.type.id, *tensor.shape, file, *place)


def write(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    os.utime(path, ns=(1, 1))  # the clock of a file system may not have ticked since it was opened


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("change", [write, append])
def test_a_file_that_was_written_to(path: Path, change: Callable[[Path], None]) -> None:
    """At the latest when the block is made; also while it is read."""
    backend = native(SPEC)
    decoder = decoder_in_file(random_decoder(SPEC), path)
    source = backend.stream_attention(decoder.attention[0])
    readings = begin(backend, source)
    read_all(readings[:2])
    change(path)
    read_all(readings[2:])
    with pytest.raises(GGUFError, match=r"weights was written to while it was in use.*load the model again"):
        source.make(readings)


def test_an_embedding_in_a_file_that_was_written_to(path: Path) -> None:
    backend = native(SPEC)
    embedding = backend.load_embedding_rows(decoder_in_file(random_decoder(SPEC), path).embedding)
    cache, rows = backend.new_cache(1, 9), Rows.of_slot(0, 0, [1, 2])
    backend.embed(embedding, rows, cache)
    write(path)
    with pytest.raises(GGUFError, match="written to"):
        backend.embed(embedding, rows, cache)


def test_a_file_that_was_cut_short(path: Path) -> None:
    backend = native(SPEC)
    decoder = decoder_in_file(random_decoder(SPEC), path)
    embedding = backend.load_embedding_rows(decoder.embedding)
    readings = begin(backend, backend.stream_feed_forward(decoder.feed_forward[1]))
    os.truncate(path, 200)
    with pytest.raises(GGUFError, match=r"weights changed or failed while it was read.* it ends before them"):
        readings[0].help()
    assert not readings[0].done
    with pytest.raises(GGUFError, match="it ends before them"):
        backend.embed(embedding, Rows.of_slot(0, 0, [SPEC.n_vocab - 1]), backend.new_cache(1, 9))


@pytest.mark.parametrize("after", [0, 1, 4095, 4096, 4097])
def test_a_file_that_ends_somewhere(path: Path, after: int) -> None:
    """Every byte that is there is read; one that is missing is an error."""
    original = random_matrix("w", 100, 64, TensorType.Q8_0)
    (tensor,) = in_file(path, [original])
    with path.open("ab") as file:
        file.write(bytes(after))
    descriptor = os.open(path, os.O_RDONLY)
    direct = _core.DirectFile(descriptor)
    os.close(descriptor)  # it has its own
    reading = reading_of(tensor, direct, 1000)
    reading.help()
    assert np.array_equal(values_read(reading), values_of(original))
    os.truncate(path, path.stat().st_size - after - 1)
    reading = reading_of(tensor, direct, 1000)
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        reading.help()
    assert not reading.done


def test_an_unlinked_file_is_still_there(path: Path) -> None:
    """And another one in its place is not read."""
    decoder = random_decoder(SPEC)
    stored = decoder_in_file(decoder, path)
    path.unlink()
    path.write_bytes(bytes(100_000))
    backend = native(SPEC)
    source = backend.stream_attention(stored.attention[0])
    readings = begin(backend, source)
    read_all(readings)
    source.make(readings)
    matrices = [tensor for tensor in decoder.attention[0].values() if len(tensor.shape) == 2]
    for reading, tensor in zip(readings, matrices, strict=True):
        assert np.array_equal(reading.core.rows(), tensor.float32())  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no reads past its cache (O_DIRECT)")
def test_reads_past_the_cache(path: Path) -> None:
    """Wherever the system offers them."""
    path.write_bytes(bytes(8192))
    with mmap(-1, 4096) as page:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            pytest.skip(f"missing: reads past the cache, on the file system of {path} ({error})")
        try:
            os.preadv(descriptor, [page], 0)
        finally:
            os.close(descriptor)
    descriptor = os.open(path, os.O_RDONLY)
    assert _core.DirectFile(descriptor).direct
    os.close(descriptor)


@pytest.mark.skipif(not Path("/proc/filesystems").exists(), reason="this system has no /proc/filesystems")
def test_what_can_only_be_read_through_the_cache() -> None:
    """Files of /proc refuse O_DIRECT."""
    start, n = 3, 5
    data = np.frombuffer(Path("/proc/filesystems").read_bytes(), np.uint8)[start : start + n * 34]
    descriptor = os.open("/proc/filesystems", os.O_RDONLY)
    file = _core.DirectFile(descriptor)
    os.close(descriptor)
    assert not file.direct
    reading = _core.Reading(8, n, 32, file, start, data.size, _core.Room(_core.matrix_bytes(8, n, 32)), 0)
    reading.help()
    assert np.array_equal(values_read(reading), values_of(Tensor("w", (n, 32), TensorType.Q8_0, data)))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm, a file system in memory")
def test_a_file_system_in_memory() -> None:
    """Where nothing can be read directly, or the system only says that it does."""
    original = random_matrix("w", 100, 320, TensorType.Q5_1)
    with TemporaryDirectory(dir="/dev/shm") as folder:
        (tensor,) = in_file(Path(folder) / "weights", [original])
        assert tensor.stored is not None
        reading = reading_of(tensor, _core.DirectFile(tensor.stored.file.descriptor), 3000)
        read_all([reading], helpers=3)
        assert np.array_equal(values_read(reading), values_of(original))


@pytest.mark.parametrize("broken", ["/proc/self/mem", "/proc/self/attr/current"])
def test_errors_of_the_system(path: Path, broken: str) -> None:
    """A descriptor whose reads fail stands for a disk whose reads fail."""
    if not Path(broken).exists():
        pytest.skip(f"missing: {broken}")
    (tensor,) = in_file(path, [random_matrix("w", 100, 64, TensorType.Q8_0)])
    descriptor = os.open(broken, os.O_RDONLY)
    reading = reading_of(tensor, _core.DirectFile(descriptor))
    os.close(descriptor)
    with pytest.raises(OSError, match=r"Input/output|Invalid|denied|Bad"):
        reading.help()
    assert not reading.done


def test_an_error_ends_the_reading_for_all(path: Path) -> None:
    (tensor,) = in_file(path, [random_matrix("w", 1600, 64, TensorType.Q8_0)])
    assert tensor.stored is not None
    os.truncate(path, 20_000)
    reading = reading_of(tensor, _core.DirectFile(tensor.stored.file.descriptor), 1000)
    failures: list[BaseException] = []

    def help() -> None:
        try:
            reading.help()
        except OSError as error:
            failures.append(error)

    threads = [Thread(target=help) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures
    assert not reading.done
    reading.help()  # begins nothing, and so meets no error
    assert not reading.done


def test_a_closed_descriptor(path: Path) -> None:
    with pytest.raises(OSError, match="Bad file"):
        _core.DirectFile(-1)


def test_called_off(path: Path) -> None:
    backend = native(SPEC)
    source = backend.stream_attention(decoder_in_file(random_decoder(SPEC), path).attention[0])
    readings = begin(backend, source)
    readings[0].cancel()
    readings[0].help()
    assert not readings[0].done
    read_all(readings[1:])
    with pytest.raises(BackendError, match="before all of it had been read"):
        source.make(readings)


def test_readings_of_another_block(path: Path) -> None:
    backend = native(SPEC)
    decoder = decoder_in_file(random_decoder(SPEC), path)
    one, other = (backend.stream_attention(block) for block in decoder.attention)
    readings = begin(backend, one)
    read_all(readings)
    with pytest.raises(BackendError, match="one of q was expected"):
        other.make(readings)
    with pytest.raises(BackendError, match="came where one of"):
        one.make(readings[::-1])


@pytest.mark.parametrize("at", [1, 32, 128, 1 << 62, (1 << 64) - 64])
def test_places_outside_of_a_room(path: Path, at: int) -> None:
    """Refused before anything is written."""
    (tensor,) = in_file(path, [random_matrix("w", 30, 64, TensorType.Q8_0)])
    assert tensor.stored is not None
    size = _core.matrix_bytes(8, 30, 64)
    file = _core.DirectFile(tensor.stored.file.descriptor)
    place = (tensor.stored.offset, tensor.data.size, _core.Room(size + 64))
    _core.Reading(8, 30, 64, file, *place, 64)
    with pytest.raises(BackendError, match=f"of {size} bytes was to be laid at byte {at} of a room of {size + 64}"):
        _core.Reading(8, 30, 64, file, *place, at)


def test_rooms() -> None:
    backend = native(SPEC)
    assert backend.new_room(0).n_bytes == 0
    assert backend.new_room(5 << 20).n_bytes == 5 << 20
    with pytest.raises(MemoryLimitError):
        backend.new_room(1 << 62)
    for wrong in (-1, 1.5, "all"):
        with pytest.raises(BackendError, match="number of bytes"):
            backend.new_room(wrong)  # type: ignore[arg-type]


def test_a_room_goes_back_to_the_system(path: Path) -> None:
    """With the last matrix in it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("missing: /proc/self/statm, which says how much memory a process has")

    def mapped() -> int:
        return int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    backend = native(SPEC)
    source = backend.stream_attention(decoder_in_file(random_decoder(SPEC), path).attention[0])
    before, size = mapped(), 1 << 30
    room = backend.new_room(size)
    ends = np.cumsum((0, *source.sizes))
    readings: Any = [source.begin(i, room, int(at)) for i, at in enumerate(ends[:-1])]
    read_all(readings)
    block = source.make(readings)
    del room, readings
    assert mapped() - before > 0.9 * size
    del block
    gc.collect()
    assert mapped() - before < 0.1 * size


def test_files_are_closed_with_their_last_tensor(path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("missing: /proc/self/fd, which says which files are open")
    before = len(list(descriptors.iterdir()))
    backend = native(SPEC)
    model = Streamed(backend, decoder_in_file(random_decoder(SPEC), path))
    during = len(list(descriptors.iterdir()))
    assert 2 <= during - before <= 3  # the file, and for all blocks together one to read directly and one beside it
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(list(descriptors.iterdir())) == before
