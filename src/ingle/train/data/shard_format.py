"""Token shards on disk, and opening them: `meta.json` beside a folder `train` and a folder `validation`.

A side holds, little-endian and without headers,
  tokens-00000.bin ...  uint16 (vocabularies up to 65536) or uint32 token ids, 2^28 in each file but the last;
  learn-00000.bin ...   a bit for each token of the same file, lowest first: may the token be a target? A file without
                        one is learnt whole;
  ends.bin              int64, where each document ends in the row of all tokens;
  sources.bin           uint16, which of the sources in meta.json each document comes from.
Nothing in such a folder is trusted: every size is checked before it is used, and token ids as they are read.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingle.errors import DataError

__all__ = ["FORMAT", "MAX_WEIGHT", "META", "SHARD_TOKENS", "SIDES", "ShardSet", "Shards", "open_shards", "token_dtype"]

FORMAT = {"format": "ingle-token-shards", "version": 1}
META = "meta.json"
SIDES = ("train", "validation")
SHARD_TOKENS = 2**28

_MAX_META_BYTES = 2**24
_MAX_TOKENS = 2**48
MAX_WEIGHT = 1000.0


@dataclass(frozen=True)
class Shards:
    """The documents of one side, memory-mapped.

    tokens, learn: the files' token ids, and the bits (uint8) of which may be targets, or None for all.
    ends: [documents] int64. sources: [documents] uint16. weights: [sources] float64, how often an epoch takes a
    document of this source. digest: of everything that decides the order and the content of batches.
    """

    tokens: tuple[NDArray[Any], ...]
    learn: tuple[NDArray[np.uint8] | None, ...]
    ends: NDArray[np.int64]
    sources: NDArray[np.uint16]
    weights: NDArray[np.float64]
    vocabulary_size: int
    digest: str
    shard_tokens: int = SHARD_TOKENS

    @property
    def n_documents(self) -> int:
        return len(self.ends)

    @property
    def n_tokens(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def n_targets(self) -> int:
        """Tokens that a document can predict, learnt or not: all but the first of each."""
        return self.n_tokens - self.n_documents

    @property
    def all_learnt(self) -> bool:
        return all(bits is None for bits in self.learn)

    def read(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Token ids at `index` [N] as stored. Raises DataError for an id beyond the vocabulary."""
        ids = self._by_file(index, self.tokens[0].dtype, lambda file, at: self.tokens[file].take(at))
        if ids.size and int(ids.max()) >= self.vocabulary_size:
            raise DataError(
                f"The token shards are damaged: they hold the token {int(ids.max())}, and their vocabulary has "
                f"{self.vocabulary_size} tokens; delete their folder to build them again."
            )
        return ids

    def learnt(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """May the tokens at `index` [N] be targets?"""

        def unpack(file: int, at: NDArray[np.int64]) -> NDArray[Any]:
            bits = self.learn[file]
            return np.ones(at.shape, bool) if bits is None else bits.take(at >> 3) >> (at & 7).astype(np.uint8) & 1

        return self._by_file(index, np.dtype(bool), unpack)

    def _by_file(
        self, index: NDArray[np.int64], dtype: np.dtype[Any], read: Callable[[int, NDArray[np.int64]], NDArray[Any]]
    ) -> NDArray[Any]:
        if len(self.tokens) == 1:
            return read(0, index).astype(dtype, copy=False)
        number = index // self.shard_tokens
        out: NDArray[Any] = np.empty(len(index), dtype)
        for file in np.flatnonzero(np.bincount(number, minlength=len(self.tokens))).tolist():
            here = np.flatnonzero(number == file)
            out[here] = read(file, index[here] - file * self.shard_tokens)
        return out


@dataclass(frozen=True)
class ShardSet:
    """Both sides, and what meta.json says: sources, licences, counts, what was dropped."""

    train: Shards
    validation: Shards
    meta: Mapping[str, Any]
    folder: Path

    @property
    def digest(self) -> str:
        return _digest(self.train.digest, self.validation.digest)


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<u4")


def open_shards(folder: str | Path, *, vocabulary_digest: str | None = None) -> ShardSet:
    """Check and map the shards in `folder`; `vocabulary_digest` is that of the tokenizer they are to be used with.

    Raises DataError for a folder that is incomplete, damaged or made with another tokenizer.
    """
    folder = Path(folder)
    meta = _Meta(read_meta(folder), folder / META)
    size = meta.integer("vocabulary_size", 1, 2**32)
    found = meta.value("vocabulary_digest", str)
    if vocabulary_digest is not None and found != vocabulary_digest:
        raise DataError(
            f"The token shards in {folder} were made with another tokenizer (digest {found[:12]}, not "
            f"{vocabulary_digest[:12]}): use that tokenizer, or delete the folder to build them again."
        )
    weights = [source.number("weight", 0.0, MAX_WEIGHT) for source in meta.records("sources")]
    shard_tokens = meta.integer("shard_tokens", 8, SHARD_TOKENS)
    if shard_tokens % 8:
        raise meta.wrong("shard_tokens")
    train, validation = (
        _open_side(folder / side, meta.record(side), size, shard_tokens, np.array(weights)) for side in SIDES
    )
    return ShardSet(train, validation, meta.values, folder)


def read_meta(folder: Path) -> dict[str, Any]:
    """The object in `meta.json`, its format and version checked. Raises DataError."""
    path = folder / META
    try:
        if not stat.S_ISREG(path.stat().st_mode) or path.stat().st_size > _MAX_META_BYTES:
            raise DataError(f"{path} is not a description of token shards: delete the folder to build them again.")
        meta = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no token shards: {META} is missing there.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is damaged: it is not JSON; delete the folder to build the shards again.") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT["format"]:
        raise DataError(f"{path} does not describe token shards: choose another folder.")
    if meta.get("version") != FORMAT["version"]:
        raise DataError(
            f"The token shards in {folder} have the version {meta.get('version')!r}, and this Ingle reads "
            f"{FORMAT['version']}: delete the folder to build them again."
        )
    return meta


def _open_side(folder: Path, meta: _Meta, size: int, shard_tokens: int, weights: NDArray[np.float64]) -> Shards:
    n_documents = meta.integer("documents", 0, _MAX_TOKENS)
    n_tokens = meta.integer("tokens", 2 * n_documents, _MAX_TOKENS)
    digest = meta.value("digest", str)
    flags = meta.value("learn", list)
    if len(flags) != -(-n_tokens // shard_tokens) or not all(isinstance(flag, bool) for flag in flags):
        raise meta.wrong("learn")
    tokens, learn = [], []
    for number, flag in enumerate(flags):
        n = min(shard_tokens, n_tokens - number * shard_tokens)
        tokens.append(_map(folder / f"tokens-{number:05d}.bin", token_dtype(size), n))
        learn.append(_map(folder / f"learn-{number:05d}.bin", np.dtype(np.uint8), -(-n // 8)) if flag else None)
    ends = _map(folder / "ends.bin", np.dtype("<i8"), n_documents)
    sources = _map(folder / "sources.bin", np.dtype("<u2"), n_documents)
    if n_documents:
        if ends[0] < 2 or ends[-1] != n_tokens or (np.diff(ends) < 2).any():
            raise _damaged(folder / "ends.bin")
        if int(sources.max()) >= len(weights):
            raise _damaged(folder / "sources.bin")
    elif n_tokens:
        raise meta.wrong("tokens")
    digest = _digest(digest, json.dumps(weights.tolist()))
    return Shards(tuple(tokens), tuple(learn), ends, sources, weights, size, digest, shard_tokens)


def _map(path: Path, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    """The `n` numbers in `path`, read-only, once the file is known to hold exactly these."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != n * dtype.itemsize:
            raise DataError(
                f"{path} is damaged: {n * dtype.itemsize} bytes were expected and it has {status.st_size}; delete the "
                "folder of the shards to build them again."
            )
        return np.memmap(path, dtype, "r", shape=(n,)) if n else np.empty(0, dtype)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: delete the folder of the shards to build them again.") from None
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged: delete the folder of the shards to build them again.")


@dataclass(frozen=True)
class _Meta:
    """A JSON object that is not trusted."""

    values: dict[str, Any]
    path: Path

    def wrong(self, key: str) -> DataError:
        return DataError(f"{self.path} is damaged ({key!r} is wrong or missing): delete the folder to build it again.")

    def value(self, key: str, kind: type[Any]) -> Any:
        value = self.values.get(key)
        if type(value) is not kind:
            raise self.wrong(key)
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value: int = self.value(key, int)
        if not low <= value <= high:
            raise self.wrong(key)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN is not
            raise self.wrong(key)
        return float(value)

    def record(self, key: str) -> _Meta:
        return _Meta(self.value(key, dict), self.path)

    def records(self, key: str) -> list[_Meta]:
        values = self.value(key, list)
        if not values or len(values) > 2**16 or not all(isinstance(value, dict) for value in values):
            raise self.wrong(key)
        return [_Meta(value, self.path) for value in values]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
