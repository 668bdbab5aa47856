"""Writing one side of a folder of token shards (its files: `shard_format`)."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ingle.train.data.shard_folder import disk_errors
from ingle.train.data.shard_format import token_dtype

__all__ = ["ShardWriter"]

_BUFFER_BYTES = 2**20


class ShardWriter:
    """Appends documents to `folder`, which it makes. `close` ends it in any case; only `finish` makes it whole."""

    def __init__(self, folder: Path, vocabulary_size: int, shard_tokens: int) -> None:
        self._folder, self._shard_tokens = folder, shard_tokens
        self._dtype = token_dtype(vocabulary_size)
        self._digests = {kind: hashlib.sha256() for kind in ("tokens", "learn", "ends", "sources")}
        self._open: list[IO[bytes]] = []
        self._flags: list[bool] = []  # of the files so far: has it a file of bits?
        self._learn: IO[bytes] | None = None
        self._bits: NDArray[np.bool_] = np.empty(0, bool)  # not yet a whole byte
        self.documents = self.tokens = 0
        with disk_errors(folder.parent):
            folder.mkdir()
        self._ends, self._sources = self._create("ends.bin"), self._create("sources.bin")
        self._tokens: IO[bytes] | None = None

    def add(self, ids: NDArray[Any], counts: NDArray[np.int64], learn: NDArray[np.bool_] | None, source: int) -> None:
        """Append documents of `source` of `counts` [N] tokens, `ids` [sum], of which `learn` [sum] may be targets.

        Raises DataError when the disk is full or does not take the files.
        """
        self._write("ends", self._ends, (self.tokens + np.cumsum(counts)).astype("<i8"))
        self._write("sources", self._sources, np.full(len(counts), source, "<u2"))
        self.documents += len(counts)
        begin = 0
        while begin < len(ids):
            in_file = self.tokens % self._shard_tokens
            if in_file == 0:
                self._next_file()
            n = min(len(ids) - begin, self._shard_tokens - in_file)
            assert self._tokens is not None
            self._write("tokens", self._tokens, ids[begin : begin + n].astype(self._dtype))
            if learn is not None or self._learn is not None:
                self._write_bits(in_file, np.ones(n, bool) if learn is None else learn[begin : begin + n])
            self.tokens += n
            begin += n

    def finish(self) -> dict[str, Any]:
        """End all files; returns what meta.json says of this side."""
        self._end_file()
        self._end(self._ends)
        self._end(self._sources)
        digests = [*(digest.hexdigest() for digest in self._digests.values()), str(self._flags)]
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "learn": self._flags,
            "digest": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        }

    def close(self) -> None:
        for file in self._open:
            with suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
                file.close()

    def _next_file(self) -> None:
        self._end_file()
        self._tokens = self._create(f"tokens-{len(self._flags):05d}.bin")
        self._flags.append(False)

    def _write_bits(self, before: int, learn: NDArray[np.bool_]) -> None:
        """The bits of the next tokens; the `before` tokens of this file that have none yet are all learnt."""
        if self._learn is None:
            if learn.all():
                return
            self._learn = self._create(f"learn-{len(self._flags) - 1:05d}.bin")
            self._flags[-1] = True
            for begin in range(0, before // 8, _BUFFER_BYTES):
                self._write("learn", self._learn, np.full(min(_BUFFER_BYTES, before // 8 - begin), 0xFF, np.uint8))
            self._bits = np.ones(before % 8, bool)
        bits = np.concatenate((self._bits, learn))
        whole = len(bits) // 8 * 8
        self._write("learn", self._learn, np.packbits(bits[:whole], bitorder="little"))
        self._bits = bits[whole:]

    def _end_file(self) -> None:
        if self._learn is not None:
            self._write("learn", self._learn, np.packbits(self._bits, bitorder="little"))
            self._end(self._learn)
            self._learn, self._bits = None, np.empty(0, bool)
        if self._tokens is not None:
            self._end(self._tokens)

    def _end(self, file: IO[bytes]) -> None:
        with disk_errors(self._folder.parent):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._open.remove(file)

    def _create(self, name: str) -> IO[bytes]:
        with disk_errors(self._folder.parent):
            file = (self._folder / name).open("xb", buffering=_BUFFER_BYTES)
        self._open.append(file)
        return file

    def _write(self, kind: str, file: IO[bytes], values: NDArray[Any]) -> None:
        self._digests[kind].update(values.data)
        with disk_errors(self._folder.parent):
            file.write(values.data)
