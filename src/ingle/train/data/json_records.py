"""Records one after the other from JSON Lines, JSON and Parquet, with the place where each one is."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ingle.errors import DataError
from ingle.train.data.files import Count, expect_utf8_mark, not_utf8

__all__ = ["MAX_RECORD_BYTES", "Broken", "json_lines", "json_values", "parquet_rows"]

#: No record of text is larger; a longer line is a file of another kind, and must not fill the memory.
MAX_RECORD_BYTES = 64 << 20

#: Called with the error about a record that cannot be read: it raises it, or notes it and reading goes on.
Broken = Callable[[DataError], None]


def json_lines(stream: IO[bytes], name: str, broken: Broken) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line that is not empty. Broken lines go to `broken` with file and line."""
    number, offset = 0, 0
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if number == 1:
            expect_utf8_mark(line, name)
        if len(line) > MAX_RECORD_BYTES:
            raise DataError(
                f"{name}:{number}: the line is longer than {MAX_RECORD_BYTES >> 20} MiB; expected one record of JSON "
                "in each line."
            )
        start = offset
        offset += len(line)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8").rstrip())
        except UnicodeDecodeError as error:
            broken(not_utf8(f"{name}:{number}", start + error.start))
        except (ValueError, RecursionError) as error:
            broken(_not_json(name, number, error))


def json_values(chunks: Iterable[str], name: str) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each element of a JSON array, or of each of the values that stand one after the other.

    The array is read as a stream, so that it may be larger than the memory. After a mistake nothing more can be told
    apart: it raises DataError with file and line.
    """
    text = _Text(iter(chunks), name)
    text.skip(" \t\r\n")
    in_array = text.take("[")
    while not text.skip(" \t\r\n" + ("," if in_array else "")):
        if in_array and text.take("]"):
            if not text.skip(" \t\r\n"):
                raise DataError(f"{name}:{text.line}: there is more after the end of the JSON array; remove it.")
            return
        yield text.line, text.value()
    if in_array:
        raise DataError(f"{name}:{text.line}: the JSON array has no end; the file was not copied as a whole.")


class _Text:
    """JSON that comes in chunks, read from the front; `line` is where it has got to."""

    def __init__(self, chunks: Iterator[str], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._text = ""
        self._at = 0
        self.line = 1
        self._decoder = json.JSONDecoder()

    def skip(self, characters: str) -> bool:
        """Pass over any of these characters; whether that was the end of the text."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in characters:
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if self._at < len(self._text):
                return False
            if not self._more():
                return True

    def take(self, character: str) -> bool:
        """Pass over one character if it is this one."""
        found = self._text[self._at : self._at + 1] == character
        self._at += found
        return found

    def value(self) -> Any:
        """The value that begins here."""
        ended = False
        while True:
            size = len(self._text) - self._at
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if ended or size > MAX_RECORD_BYTES or isinstance(error, RecursionError):
                    before = self._text.count("\n", self._at, getattr(error, "pos", self._at))
                    raise _not_json(self._name, self.line + before, error) from None
                # A value that is cut reads like a broken one. Twice the text each time: parsing again stays cheap.
                while len(self._text) - self._at < 2 * size and not ended:
                    ended = not self._more()
            else:
                # A number at the very end of what is there could go on in the next chunk.
                if end < len(self._text) or ended:
                    self.line += self._text.count("\n", self._at, end)
                    self._at = end
                    return value
                ended = not self._more()

    def _more(self) -> bool:
        chunk = next(self._chunks, "")
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)


def parquet_rows(path: Path, count: Count | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, record) of each row of a Parquet file, a few at a time."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"Reading {path} needs the package pyarrow: pip install 'ingle[train]'.") from None

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows, n_bytes = max(1, file.metadata.num_rows), path.stat().st_size
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
                if count is not None:
                    count(n_bytes * batch.num_rows // rows)
    except (pyarrow.ArrowException, OSError) as error:
        what = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"{path} is not a sound Parquet file ({what}); get the file again.") from None


def _not_json(name: str, number: int, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        what = f"{error.msg[:1].lower()}{error.msg[1:]}, character {error.colno} of the line"
    else:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DataError(f"{name}:{number}: this is not JSON ({what}); correct the line or take it out.")
