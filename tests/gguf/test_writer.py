"""Writing: files that read back the same, that the gguf package reads, and that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_bytes import sound
from ingle.errors import ModelFileError, UsageError
from ingle.gguf import Metadata, TensorToWrite, TensorType, TypedValue, ValueType, open_gguf, write_gguf
from shared_data import DATA, needs

VOCABULARIES = sorted((DATA / "tokenizers").glob("*.gguf"))


def floats(name: str, values: list[float]) -> TensorToWrite:
    data = np.array(values, np.float32)
    return TensorToWrite(name, data.shape, TensorType.F32, lambda: [data])


def rewritten(source: Path, target: Path) -> None:
    with open_gguf(source) as opened:
        tensors = [TensorToWrite(t.name, t.shape, t.type, lambda t=t: [t.data]) for t in opened.tensors.values()]
        write_gguf(target, opened.metadata, tensors)


def test_a_rewritten_file_is_the_same_bytes(tmp_path: Path) -> None:
    """Every value type, empty and nested arrays included, keeps its type."""
    (tmp_path / "a.gguf").write_bytes(sound())
    rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf")
    padding = bytes(-len(sound()) % 32)
    assert (tmp_path / "b.gguf").read_bytes() == sound() + padding


@needs("tokenizers")
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem)
def test_real_vocabularies_rewritten_are_the_same(tmp_path: Path, path: Path) -> None:
    rewritten(path, tmp_path / "copy.gguf")
    before, after = open_gguf(path), open_gguf(tmp_path / "copy.gguf")
    assert list(before.metadata) == list(after.metadata)
    for key in before.metadata:
        ours, theirs = after.metadata.typed(key), before.metadata.typed(key)
        assert (ours.type, ours.element_type) == (theirs.type, theirs.element_type)
        assert np.array_equal(np.asarray(ours.value), np.asarray(theirs.value))


def test_the_gguf_package_reads_what_we_write(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 64)).astype(np.float32)
    blocks = rng.integers(0, 256, (2, 3, TensorType.Q6_K.row_bytes(256)), dtype=np.uint8)
    metadata = {
        "general.architecture": "llama",
        "count": 7,
        "negative": -7,
        "large": 2**40,
        "rate": 0.25,
        "yes": True,
        "tokens": ["a", "ç", ""],
        "ids": [1, 2, 3],
        "scores": np.array([0.5, -1.0], np.float32),
        "byte": np.uint8(200),
    }
    tensors = [
        TensorToWrite("matrix", (3, 64), TensorType.F32, lambda: iter(matrix)),
        TensorToWrite("experts", (2, 3, 256), TensorType.Q6_K, lambda: [blocks.tobytes()]),
        floats("vector", [1, 2, 3]),
    ]
    write_gguf(tmp_path / "m.gguf", metadata, tensors)
    theirs = gguf.GGUFReader(tmp_path / "m.gguf")
    for key, value in metadata.items():
        field = theirs.get_field(key)
        assert field is not None
        assert field.contents() == (value.tolist() if isinstance(value, np.ndarray) else value)
    types = {key: [t.name for t in theirs.fields[key].types] for key in metadata}
    assert types["count"] == ["UINT32"]
    assert types["negative"] == ["INT32"]
    assert types["large"] == ["UINT64"]
    assert types["rate"] == ["FLOAT32"]
    assert types["ids"] == ["ARRAY", "INT32"]
    assert types["byte"] == ["UINT8"]
    assert [t.name for t in theirs.tensors] == ["matrix", "experts", "vector"]
    np.testing.assert_array_equal(theirs.tensors[0].data, matrix)
    np.testing.assert_array_equal(theirs.tensors[1].data, blocks)
    assert theirs.tensors[1].shape.tolist() == [256, 3, 2]


def test_alignment_of_the_metadata_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, {"general.alignment": 256}, [floats("a", [1]), floats("b", [2])])
    opened = open_gguf(path)
    assert opened.tensors["b"].offset - opened.tensors["a"].offset == 256
    assert gguf.GGUFReader(path).tensors[1].data.tolist() == [2]


def test_on_bytes_counts_every_byte_of_data(tmp_path: Path) -> None:
    counts: list[int] = []
    data = np.arange(1000, dtype=np.float32)
    tensors = [
        TensorToWrite("a", (1000,), TensorType.F32, lambda: np.array_split(data, 7)),
        TensorToWrite("b", (10, 100), TensorType.F32, lambda: [data[:500], data[500:].tobytes(), b""]),
    ]
    write_gguf(tmp_path / "m.gguf", {}, tensors, counts.append)
    assert sum(counts) == sum(tensor.n_bytes for tensor in tensors) == 8000
    assert len(counts) == 10
    opened = open_gguf(tmp_path / "m.gguf")
    assert opened.tensors["a"].data.tobytes() == opened.tensors["b"].data.tobytes() == data.tobytes()


def test_memory_holds_one_piece(tmp_path: Path) -> None:
    n_pieces, piece_bytes = 64, 1 << 20

    def chunks() -> Iterator[bytes]:
        for i in range(n_pieces):
            yield bytes([i]) * piece_bytes

    tensor = TensorToWrite("a", (n_pieces, piece_bytes // 4), TensorType.F32, chunks)
    write_gguf(tmp_path / "warm.gguf", {}, [floats("a", [1])])  # imports, before measuring
    tracemalloc.start()
    try:
        write_gguf(tmp_path / "m.gguf", {}, [tensor])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * piece_bytes


# -- whole or not at all -----------------------------------------------------------------------------------------------


def assert_untouched(directory: Path, before: bytes = b"before") -> None:
    assert [path.name for path in directory.iterdir()] == ["m.gguf"]
    assert (directory / "m.gguf").read_bytes() == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, OSError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: type[BaseException]) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(16)
        assert len(list(tmp_path.iterdir())) == 2, "written beside the target"
        raise failure("in the source")

    (tmp_path / "m.gguf").write_bytes(b"before")
    with pytest.raises(failure, match="in the source"):
        write_gguf(tmp_path / "m.gguf", {}, [TensorToWrite("a", (8,), TensorType.F32, chunks)])
    assert_untouched(tmp_path)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([b"1234"], "is 32 bytes, but 4 were given"),
        ([], "is 32 bytes, but 0 were given"),
        ([bytes(30), bytes(3)], "is 32 bytes, but at least 33 were given"),
    ],
)
def test_another_number_of_bytes_is_refused(tmp_path: Path, chunks: list[bytes], message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(b"before")
    with pytest.raises(UsageError, match=rf'"blk\.0", F32 of shape \[2, 4\], {message}'):
        write_gguf(tmp_path / "m.gguf", {}, [TensorToWrite("blk.0", (2, 4), TensorType.F32, lambda: chunks)])
    assert_untouched(tmp_path)


def test_a_disk_without_room_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    def chunks() -> Iterable[bytes]:
        raise AssertionError("nothing is asked for")

    (tmp_path / "m.gguf").write_bytes(b"before")
    with pytest.raises(ModelFileError, match=r"needs 1\.50 GiB, and its disk has 1\.00 GiB free"):
        write_gguf(tmp_path / "m.gguf", {}, [TensorToWrite("a", (3, 1 << 27), TensorType.F32, chunks)])
    assert_untouched(tmp_path)


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "disk or quota is full"), (errno.EIO, "Input/output error: check")]
)
def test_a_disk_that_fails_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    def fsync(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "m.gguf").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ModelFileError, match=message):
        write_gguf(tmp_path / "m.gguf", {}, [floats("a", [1])])
    assert_untouched(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on file sizes")
def test_a_real_failure_to_write(tmp_path: Path) -> None:
    """A process whose files may have 1 MiB writes 16 MiB: the kernel itself refuses."""
    (tmp_path / "m.gguf").write_bytes(b"before")
    script = """
        import resource, sys
        from ingle.errors import ModelFileError
        from ingle.gguf import TensorToWrite, TensorType, write_gguf
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        tensor = TensorToWrite("a", (16, 1 << 18), TensorType.F32, lambda: (bytes(1 << 20) for _ in range(16)))
        try:
            write_gguf(sys.argv[1], {}, [tensor])
        except ModelFileError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "m.gguf"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "m.gguf cannot be written, because the file is larger than" in done.stdout
    assert_untouched(tmp_path)


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_gguf(tmp_path / "file" / "m.gguf", {}, [])


def test_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_gguf(tmp_path / "new" / "m.gguf", {}, [])
    assert stat.S_IMODE((tmp_path / "new" / "m.gguf").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


# -- what cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"k": TypedValue(300, ValueType.UINT8)}, '"k" does not fit its type uint8'),
        ({"k": TypedValue("x", ValueType.INT32)}, '"k" does not fit its type int32'),
        ({"k": TypedValue([1, 2**31], ValueType.ARRAY, ValueType.INT32)}, '"k" does not fit its type int32'),
        ({"k": TypedValue([0.5], ValueType.ARRAY, ValueType.INT32)}, '"k" does not fit its type int32'),
        ({"k": TypedValue([1], ValueType.ARRAY)}, '"k" does not fit its type array'),
        ({"k": 2**64}, "does not fit the 64 bits"),
        ({"k": []}, "empty list has no element type"),
        ({"k": [1, "a"]}, "must all have one type"),
        ({"k": None}, "not NoneType"),
        ({"k": b"bytes"}, "not bytes"),
        ({"k": np.zeros((2, 2))}, "one dimension, not 2"),
        ({"k": np.zeros(2, np.complex64)}, "not complex64"),
        ({"k": "\ud800"}, '"k" does not fit its type string'),
    ],
)
def test_metadata_that_gguf_cannot_hold(tmp_path: Path, metadata: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_gguf(tmp_path / "m.gguf", metadata, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([floats("a", [1]), floats("a", [1])], "given twice"),
        ([floats("", [1])], "is empty"),
        ([TensorToWrite("a", (), TensorType.F32, list)], "1 to 4 dimensions"),
        ([TensorToWrite("a", (1,) * 5, TensorType.F32, list)], "1 to 4 dimensions"),
        ([TensorToWrite("a", (0, 4), TensorType.F32, list)], "at least 1"),
        ([TensorToWrite("a", (2, 40), TensorType.Q4_0, list)], "a row of 40 weights cannot be Q4_0"),
    ],
)
def test_tensors_that_gguf_cannot_hold(tmp_path: Path, tensors: list[TensorToWrite], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_gguf(tmp_path / "m.gguf", {}, tensors)
    assert not list(tmp_path.iterdir())


def test_floats_of_a_list_become_float32(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", Metadata({"k": [0.1, 1]}), [])
    array = open_gguf(tmp_path / "m.gguf").metadata.get_array("k")
    assert array.tobytes() == struct.pack("<2f", 0.1, 1)
