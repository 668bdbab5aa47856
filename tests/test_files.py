"""Reading within a bound, and writing files that are whole or not there."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from ingle.errors import CheckpointError, DataError
from ingle.files import json_objects, read_bytes, write_whole


def test_a_file_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 4096, 3 << 20):
        path.write_bytes(bytes(size))
        assert read_bytes(path, size) == bytes(size)
        if size:
            with pytest.raises(DataError, match=rf"a is larger than {size - 1:,} bytes; give another\.$"):
                read_bytes(path, size - 1, advice="give another")


def test_memory_is_that_of_the_file_and_not_of_the_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    tracemalloc.start()
    data = read_bytes(tmp_path / "a", 1 << 34)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 1 << 20
    assert peak < 1.5 * (1 << 20)


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 << 20])
def test_what_has_no_size_is_read_too_and_no_further(size: int, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        try:
            with pipe.open("wb") as file:
                file.write(bytes(size))
        except BrokenPipeError:  # the reader had enough
            pass

    for limit in (size, size - 1):
        writer = threading.Thread(target=write)
        writer.start()
        if limit == size:
            assert read_bytes(pipe, limit) == bytes(size)
        elif limit >= 0:
            with pytest.raises(DataError, match="is larger than"):
                read_bytes(pipe, limit)
        else:
            pipe.read_bytes()
        writer.join()


def test_what_cannot_be_read_is_the_error_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none cannot be read: No such file or directory; download it\.$"):
        read_bytes(tmp_path / "none", 10, CheckpointError, "download it")
    with pytest.raises(DataError, match="Is a directory"):
        read_bytes(tmp_path, 10)


def test_lines_of_json() -> None:
    found = json_objects(io.BytesIO(b'{"a": 1}\n\n  \n{"b": "\xc3\xa9"}'), "x.jsonl", 20, 40)
    assert list(found) == [("x.jsonl, line 1", {"a": 1}), ("x.jsonl, line 4", {"b": "\u00e9"})]


@pytest.mark.parametrize(
    ("data", "about"),
    [
        (b'{"a": 1}\n{"a": 2\n', "x.jsonl, line 2 is not JSON"),
        (b"{}\n[]\n", "line 2 is list; expected a JSON object"),
        (b"{}\n" + b" " * 30, "line 2 has more than 20 bytes"),
        (b"{}\n" * 20, "x.jsonl has more than 40 bytes"),
        (b'"\xff"', "line 1 is not JSON"),
        (b"[" * 20, "line 1 is not JSON"),
    ],
)
def test_lines_that_are_not_sound(data: bytes, about: str) -> None:
    with pytest.raises(DataError, match=about):
        list(json_objects(io.BytesIO(data), "x.jsonl", 20, 40))


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "first \u00e9")
    assert path.read_bytes() == "first \u00e9".encode()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'"):
        write_whole(path, "second")
    assert path.read_text(encoding="utf-8") == "first \u00e9"
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]


def test_who_may_read_it_follows_the_umask(tmp_path: Path) -> None:
    for mask, mode in ((0o077, 0o600), (0o022, 0o644)):
        before = os.umask(mask)
        try:
            write_whole(tmp_path / "a", b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode
