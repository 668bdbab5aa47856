"""From sources to token shards: tokenised in parallel, split by content, used again while nothing changes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ingle.errors import DataError, UsageError
from ingle.train.data.document import Document, batched
from ingle.train.data.shard_folder import building, rename_whole, require_replaceable, write_meta
from ingle.train.data.shard_format import FORMAT, MAX_WEIGHT, SHARD_TOKENS, SIDES, Shards, ShardSet, open_shards
from ingle.train.data.shard_writer import ShardWriter
from ingle.train.data.sources import Source, read_documents, source_bytes, source_files

__all__ = ["Encoder", "ShardSet", "Shards", "build_shards", "open_shards"]

_BATCH_CHARACTERS = 2**22
_MAX_SOURCES = 2**16
_LICENCES = 100  # distinct ones that meta.json tells of each source

Encoded = tuple[list[int], list[bool] | None]


class Encoder(Protocol):
    """What is needed of a `vocabulary.Vocabulary`."""

    @property
    def digest(self) -> str: ...
    @property
    def size(self) -> int: ...
    def encode_batch(self, documents: Sequence[Document]) -> list[Encoded]:
        """For each document its token ids, the end of the document included, and which may be targets (None: all)."""


def build_shards(
    sources: Sequence[Source],
    vocabulary: Encoder,
    folder: str | Path,
    *,
    validation: float | Sequence[Source] = 0.01,
    seed: int = 0,
    on_progress: Callable[[int, int | None], None] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> ShardSet:
    """Token shards of `sources` in `folder`; those that are there already if they are of the same files and tokenizer.

    validation: the share of documents held out (0 for none), chosen by a hash of `seed` and their text, so that
    documents that are added later do not move others, and equal documents are on one side; or sources of their own,
    whose documents are then left out of training.
    A source of weight w gives each of its documents w times an epoch on average.
    shard_tokens: how many tokens a file holds, a multiple of 8.
    on_progress: called with the bytes read so far and those of all sources, None where one does not say its size.

    The folder appears whole or not at all, and processes that build it at once wait for the first.
    Raises DataError for data that cannot be read, nothing to train on or to validate with, a folder that holds other
    things, a full disk; UsageError for a share or weight that cannot be.
    """
    folder = Path(folder)
    own = None if isinstance(validation, int | float) else list(validation)
    share = float(validation) if isinstance(validation, int | float) else 0.0
    everything = [*sources, *(own or [])]
    _check(everything, len(sources), own, share, seed)
    key = _key(everything, len(sources), vocabulary, share, seed, shard_tokens)
    weights = [source.weight for source in everything]
    if (ready := _reuse(folder, key, vocabulary, weights)) is not None:
        return ready
    require_replaceable(folder)
    with building(folder) as partial:
        if (ready := _reuse(folder, key, vocabulary, weights)) is None:  # not built by another process meanwhile
            build = _Build(vocabulary, seed, share, on_progress, _total_bytes(everything))
            meta = build.run(list(sources), own, partial, shard_tokens)
            write_meta(partial, {**FORMAT, "key": key, **meta})
            require_replaceable(folder)
            rename_whole(partial, folder)
            ready = open_shards(folder, vocabulary_digest=vocabulary.digest)
    return ready


class _Build:
    """One run over all sources."""

    def __init__(
        self,
        vocabulary: Encoder,
        seed: int,
        share: float,
        on_progress: Callable[[int, int | None], None] | None,
        bytes_total: int | None,
    ) -> None:
        self._vocabulary = vocabulary
        self._seed, self._share = seed.to_bytes(8, "little"), share
        self._on_progress, self._bytes_total = on_progress, bytes_total
        self._bytes_read = 0
        self._held_out: set[bytes] = set()  # documents of the validation sources
        self._dropped: Counter[str] = Counter()
        self._writers: dict[str, ShardWriter] = {}

    def run(self, sources: list[Source], own: list[Source] | None, folder: Path, shard_tokens: int) -> dict[str, Any]:
        """Write both sides into `folder`; returns what meta.json tells."""
        with ExitStack() as stack:
            for side in SIDES:
                writer = ShardWriter(folder / side, self._vocabulary.size, shard_tokens)
                stack.callback(writer.close)
                self._writers[side] = writer
            about = [self._read(source, len(sources) + n, "validation") for n, source in enumerate(own or [])]
            about = [self._read(source, n, "train" if own else None) for n, source in enumerate(sources)] + about
            self._expect_documents(own is not None)
            sides = {side: writer.finish() for side, writer in self._writers.items()}
        return {
            "vocabulary_digest": self._vocabulary.digest,
            "vocabulary_size": self._vocabulary.size,
            "shard_tokens": shard_tokens,
            "seed": int.from_bytes(self._seed, "little"),
            "validation_share": None if own else self._share,
            "sources": about,
            "dropped": dict(self._dropped),
            **sides,
        }

    def _read(self, source: Source, number: int, side: str | None) -> dict[str, Any]:
        """All documents of one source, to `side` or, without one, to the side of their content."""
        before = {name: (writer.documents, writer.tokens) for name, writer in self._writers.items()}
        licences: Counter[str] = Counter()
        for documents in batched(read_documents(source, count=self._count), _BATCH_CHARACTERS):
            licences.update(document.licence or "unknown" for document in documents)
            kept: dict[str, list[Encoded]] = {name: [] for name in SIDES}
            for document, encoded in zip(documents, self._vocabulary.encode_batch(documents), strict=True):
                to = self._side(document, encoded, side)
                if to is not None:
                    kept[to].append(encoded)
            for name, some in kept.items():
                self._add(name, some, number)
            if self._on_progress is not None:
                self._on_progress(self._bytes_read, self._bytes_total)
        counts = {
            name: {"documents": writer.documents - before[name][0], "tokens": writer.tokens - before[name][1]}
            for name, writer in self._writers.items()
        }
        return {
            "name": source.path_or_name,
            "weight": source.weight,
            "licences": dict(licences.most_common(_LICENCES)),
            **counts,
        }

    def _side(self, document: Document, encoded: Encoded, side: str | None) -> str | None:
        """Where a document goes; None for one that is dropped, which is counted."""
        ids, learn = encoded
        if len(ids) < 2:
            self._dropped["shorter than 2 tokens"] += 1
            return None
        if learn is not None and not any(learn[1:]):
            self._dropped["nothing to learn"] += 1
            return None
        if side is not None or self._share:
            content = document.text.encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(content, digest_size=16, key=self._seed).digest()
            if side is None:
                return "validation" if int.from_bytes(digest[:8], "little") < self._share * 2.0**64 else "train"
            if side == "validation":
                self._held_out.add(digest)
            elif digest in self._held_out:
                self._dropped["also in validation"] += 1
                return None
        return side or "train"

    def _add(self, side: str, encoded: list[Encoded], source: int) -> None:
        if not encoded:
            return
        counts = np.array([len(ids) for ids, _ in encoded], np.int64)
        ids: NDArray[np.int64] = np.fromiter(
            chain.from_iterable(ids for ids, _ in encoded), np.int64, int(counts.sum())
        )
        if ids.min() < 0 or ids.max() >= self._vocabulary.size:
            raise DataError(
                f"The tokenizer gave the token {ids.max()}, and says it has {self._vocabulary.size}: use a sound one."
            )
        learn: NDArray[np.bool_] | None = None
        if any(flags is not None for _, flags in encoded):
            pairs = (flags if flags is not None else [True] * len(some) for some, flags in encoded)
            learn = np.fromiter(chain.from_iterable(pairs), bool, len(ids))
        self._writers[side].add(ids, counts, learn, source)

    def _count(self, n_bytes: int) -> None:
        self._bytes_read += n_bytes

    def _expect_documents(self, own_validation: bool) -> None:
        train, validation = (self._writers[side].documents for side in SIDES)
        dropped = "".join(f", {n} {why}" for why, n in self._dropped.items())
        if not train and not validation:
            raise DataError(f"There is nothing to learn in these data (dropped{dropped[1:]}): give more.")
        if not train:
            why = (
                "all documents are also in the validation data" if own_validation else "the validation share takes all"
            )
            raise DataError(f"No document is left to train on: {why}{dropped}; give more data.")
        if not validation and own_validation:
            raise DataError(f"The validation data hold no document to measure with{dropped}: give others.")
        if not validation and self._share:
            raise DataError(
                f"A validation share of {self._share:g} of {train} documents leaves none to validate with: give a "
                "larger share, validation data of their own, or more documents (0 goes without validation)."
            )


def _check(sources: list[Source], n_train: int, own: list[Source] | None, share: float, seed: int) -> None:
    if not 0 < n_train <= len(sources) <= _MAX_SOURCES:
        raise UsageError(f"Training needs 1 to {_MAX_SOURCES} sources of documents; {n_train} were given.")
    if own is not None and not own:
        raise UsageError("The list of validation sources is empty: give some, or a share of the documents.")
    if not 0 <= share < 1:
        raise UsageError(f"The validation share is from 0 to below 1; got {share!r}.")
    if not 0 <= seed < 2**64:
        raise UsageError(f"A seed is a whole number from 0 to 2^64 - 1; got {seed!r}.")
    for source in sources:
        if not 0 < source.weight <= MAX_WEIGHT:
            raise UsageError(
                f"The weight of {source.path_or_name} is {source.weight!r}, and an epoch takes a document at most "
                f"{MAX_WEIGHT:g} times: give a number above 0 and up to that."
            )


def _key(sources: list[Source], n_train: int, vocabulary: Encoder, share: float, seed: int, shard_tokens: int) -> str:
    """Equal where a build would give the same shards, judged by names, sizes and times of the files; a data set by name
    counts as unchanged. Without weights: another weight only changes meta.json."""
    files = [
        [str(file), (status := file.stat()).st_size, status.st_mtime_ns]
        for source in sources
        for file in source_files(source)
    ]
    what = [FORMAT, vocabulary.digest, vocabulary.size, share, seed, shard_tokens, n_train, files]
    what += [[s.path_or_name, s.licence, s.text_field, s.split] for s in sources]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _reuse(folder: Path, key: str, vocabulary: Encoder, weights: list[float]) -> ShardSet | None:
    """The shards in `folder` if they are sound and of this build, with these weights."""
    try:
        ready = open_shards(folder, vocabulary_digest=vocabulary.digest)
    except DataError:
        return None
    if ready.meta.get("key") != key or len(ready.meta["sources"]) != len(weights):
        return None
    if [source["weight"] for source in ready.meta["sources"]] != weights:
        about = [{**s, "weight": weight} for s, weight in zip(ready.meta["sources"], weights, strict=True)]
        write_meta(folder, {**ready.meta, "sources": about})
        return open_shards(folder, vocabulary_digest=vocabulary.digest)
    return ready


def _total_bytes(sources: list[Source]) -> int | None:
    sizes = [source_bytes(source) for source in sources]
    return None if None in sizes else sum(size for size in sizes if size is not None)
