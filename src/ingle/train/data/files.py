"""Opening what holds data: plain and compressed files, members of archives, everything in a folder.

Files are read as streams. Errors in the bytes (a cut gzip file, a text that is not UTF-8) become one sentence that
names the file and the place.
"""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from ingle.errors import DataError

__all__ = [
    "ARCHIVES",
    "COMPRESSED",
    "ENDINGS",
    "KINDS",
    "decoded",
    "find_files",
    "kind_of",
    "members",
    "near_misses",
    "opened",
]

#: What a file holds, by the end of its name; a compressed file has one of COMPRESSED after it.
KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSED = (".gz", ".xz")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
#: All of them, for sentences.
ENDINGS = ", ".join((*KINDS, *ARCHIVES))

_WIKI = re.compile(r"wiki_\d+")  # as WikiExtractor calls its texts
_CHUNK = 1 << 20
#: What goes wrong inside compressed bytes. `tarfile` and `gzip` let some errors of `zlib` and `struct` through.
_BROKEN = (EOFError, lzma.LZMAError, zlib.error, tarfile.TarError, gzip.BadGzipFile)

Count = Callable[[int], None]


def kind_of(name: str) -> str | None:
    """What a file of this name holds: a value of KINDS, "archive", or None for what cannot be read."""
    name = name.lower()
    if name.endswith(ARCHIVES):
        return "archive"
    for ending in COMPRESSED:
        if name.endswith(ending):
            inner = KINDS.get(Path(name.removesuffix(ending)).suffix)
            return None if inner == "parquet" else inner
    return "text" if _WIKI.fullmatch(Path(name).name) else KINDS.get(Path(name).suffix)


def find_files(path: Path) -> list[Path]:
    """The file itself, or every file in a folder (and in the folders within) that can be read, in order of their names.

    Hidden files and folders are left out, and what is about the data: README and LICENSE.
    Raises DataError if there is no such file, or nothing in it to read.
    """
    if path.is_dir():
        found = [
            file
            for file in sorted(path.rglob("*"))
            if kind_of(file.name) is not None
            and file.stem.upper() not in ("README", "LICENSE", "LICENCE")
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        ]
        if not found:
            raise DataError(
                f"The folder {path} has nothing to read; expected files that end in {ENDINGS}, "
                f"also with {' or '.join(COMPRESSED)}."
            )
        return found
    if not path.exists():
        raise DataError(f"There is no {path}{near_misses(path)}")
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder; give one of these.")
    if kind_of(path.name) is None:
        hint = "unpack it with `zstd -d` first" if path.suffix.lower() == ".zst" else "convert it to one of these"
        raise DataError(f"{path} is of no kind that can be read ({ENDINGS}); {hint}.")
    return [path]


def near_misses(path: Path) -> str:
    """The end of a sentence about a name that is not there: names like it, or where was looked."""
    parent = path.parent
    if not parent.is_dir():
        return f" (there is no folder {parent} either)."
    close = get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=3)
    return f"; did you mean {' or '.join(str(parent / name) for name in close)}?" if close else f" in {parent}."


@contextmanager
def opened(path: Path, count: Count | None = None) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed. `count` is told of bytes as they are read from the disk.

    Raises DataError for a file that cannot be opened, and for compressed bytes that are cut or broken.
    """
    try:
        raw = io.BufferedReader(_Counting(path, count), _CHUNK)
    except OSError as error:
        raise DataError(f"Cannot open {path}: {error.strerror}.") from None
    with raw, telling(str(path)):
        yield _decompressed(raw, path.name)


def members(path: Path, count: Count | None = None) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, decompressed bytes) of each file in an archive that can be read, in the archive's order.

    Nothing is unpacked to disk; links and devices are passed over. A stream ends when the next is asked for.
    """
    with opened(path, count) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            kind = kind_of(member.name)
            if (
                member.isfile()
                and kind not in (None, "archive", "parquet")
                and not Path(member.name).name.startswith(".")
            ):
                inner = archive.extractfile(member)
                if inner is not None:
                    yield member.name, _decompressed(inner, member.name)


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Errors of decompression as sentences."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, EOFError) or "truncated" in str(error) or "unexpected end" in str(error):
            what = "ends in the middle; it was not copied or downloaded as a whole"
        else:
            what = f"is not sound ({' '.join(str(error).split()) or type(error).__name__})"
        raise DataError(f"{name} {what}; get the file again.") from None


def decoded(stream: IO[bytes], name: str) -> Iterator[str]:
    """A stream of UTF-8 as texts of about a mebibyte, a byte order mark left out. Line ends stay as they are.

    Raises DataError with the place of the first byte that is not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = 0
    while True:
        chunk = stream.read(_CHUNK)
        if offset == 0:
            expect_utf8_mark(chunk, name)
            if chunk.startswith(codecs.BOM_UTF8):
                chunk, offset = chunk[3:], 3
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise not_utf8(name, offset - pending + error.start) from None
        if "\0" in text:
            at = offset - pending + len(text[: text.index("\0")].encode())
            raise DataError(f"{name} has a zero byte at offset {at}, so it is not a text; give a text in UTF-8.")
        offset += len(chunk)
        if text:
            yield text
        if not chunk:
            return


def expect_utf8_mark(start: bytes, name: str) -> None:
    """Raises DataError if the first bytes of a file say that it is UTF-16 or UTF-32."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise DataError(f"{name} is in UTF-16 or UTF-32; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW.")


def not_utf8(name: str, offset: int) -> DataError:
    """The error about a byte, which the caller raises."""
    return DataError(
        f"{name} is not UTF-8 at byte {offset}; convert it (for a file in Latin-1: iconv -f LATIN1 -t UTF-8 OLD > NEW)."
    )


def _decompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    name = name.lower()
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=stream, mode="rb")  # type: ignore[return-value]  # it is one, in all that is used
    if name.endswith((".xz", ".txz")):
        return lzma.LZMAFile(stream)
    return stream


class _Counting(io.RawIOBase):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, count: Count | None) -> None:
        self._file = path.open("rb", buffering=0)
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = self._file.readinto(buffer) or 0
        if self._count is not None:
            self._count(n)
        return n

    def close(self) -> None:
        self._file.close()
        super().close()
