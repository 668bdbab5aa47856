"""What is in a set of data: how much, how long, what of it is learnt, whose it is, and what cannot be read."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from ingle.errors import DataError, UsageError
from ingle.train.data.document import Document, batched
from ingle.train.data.sources import Source, read_documents
from ingle.train.data.vocabulary import Vocabulary

__all__ = ["NOT_STATED", "QUANTILES", "Lengths", "Part", "Summary", "summarise"]

#: Under this name stand the documents whose licence nobody says.
NOT_STATED = "not stated"
QUANTILES = (5, 25, 50, 75, 95)

_BATCH_CHARACTERS = 1 << 20
_EXAMPLE_CHARACTERS = 2000
_MAX_BROKEN = 100  # more are counted, and not kept


@dataclass
class Part:
    """The sums over one source, or over all. tokens, learnt_tokens and changed are None without a vocabulary.

    bytes: of the text as UTF-8. tokens: with the ones that end documents. changed: documents that do not come back
    from their tokens as they were. duplicates: documents with exactly the text of one before, also in another source.
    """

    name: str
    documents: int = 0
    bytes: int = 0
    characters: int = 0
    learnt_characters: int = 0
    tokens: int | None = None
    learnt_tokens: int | None = None
    changed: int | None = None
    duplicates: int = 0
    broken: int = 0
    licences: dict[str, int] = field(default_factory=dict)

    @property
    def learnt_share(self) -> float:
        """The share of tokens (characters, without a vocabulary) that is learnt, in [0, 1]."""
        if self.tokens is not None and self.learnt_tokens is not None:
            return self.learnt_tokens / max(1, self.tokens)
        return self.learnt_characters / max(1, self.characters)

    def as_record(self) -> dict[str, Any]:
        """Ready for JSON."""
        names = ("name", "documents", "bytes", "characters", "tokens", "learnt_characters", "learnt_tokens")
        record: dict[str, Any] = {name: getattr(self, name) for name in names}
        record["learnt_share"] = round(self.learnt_share, 6)
        return record | {name: getattr(self, name) for name in ("duplicates", "changed", "broken", "licences")}


@dataclass(frozen=True)
class Lengths:
    """How long documents are, in `unit`: "tokens" or "characters".

    quantiles: length by percent, as in QUANTILES (the nearest document's, no mean of two). histogram: (from, up to and
    without, documents), each bar twice as wide as the one before.
    """

    unit: str
    least: int
    most: int
    mean: float
    quantiles: dict[int, int]
    histogram: list[tuple[int, int, int]]

    @classmethod
    def of(cls, unit: str, lengths: Sequence[int]) -> Lengths:
        """From the length of each document; there is at least one."""
        ordered = sorted(lengths)
        last = len(ordered) - 1
        bars: dict[int, int] = {}
        for length in ordered:
            bars[length.bit_length()] = bars.get(length.bit_length(), 0) + 1
        return cls(
            unit,
            ordered[0],
            ordered[-1],
            sum(ordered) / len(ordered),
            {percent: ordered[round(last * percent / 100)] for percent in QUANTILES},
            [(1 << bits >> 1, 1 << bits, bars.get(bits, 0)) for bits in range(min(bars), max(bars) + 1)],
        )

    def as_record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "unit": self.unit,
            "min": self.least,
            **{f"p{percent}": length for percent, length in self.quantiles.items()},
            "max": self.most,
            "mean": round(self.mean, 3),
            "histogram": [{"from": low, "below": high, "documents": n} for low, high, n in self.histogram],
        }


@dataclass(frozen=True)
class Summary:
    """What `summarise` found: sums for each source and for all; lengths; the first documents; what cannot be read."""

    parts: tuple[Part, ...]
    total: Part
    lengths: Lengths
    examples: tuple[Document, ...]
    broken: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """Ready for JSON. Examples are cut after 2000 characters."""
        return {
            "sources": [part.as_record() for part in self.parts],
            "total": self.total.as_record(),
            "lengths": self.lengths.as_record(),
            "examples": [_example(document) for document in self.examples],
            "broken": list(self.broken),
        }


def summarise(
    sources: Sequence[Source],
    vocabulary: Vocabulary | None = None,
    *,
    examples: int = 3,
    count: Callable[[int], None] | None = None,
) -> Summary:
    """Read all documents of all sources once. Without a vocabulary nothing is said of tokens.

    examples: how many of the first documents (of each source) to keep. count: told of bytes as they are read.
    Broken records are counted, and the first errors kept. Memory: 8 bytes for each document's length and a fingerprint
    of each text. Raises UsageError for no sources, DataError for a source without a document that can be read.
    """
    if not sources:
        raise UsageError("Expected at least one source of data, got none.")
    counter = _Counter(vocabulary, examples)
    parts = tuple(counter.read(source, count) for source in sources)
    total = _sum(parts)
    lengths = Lengths.of("characters" if vocabulary is None else "tokens", counter.lengths)
    return Summary(parts, total, lengths, tuple(counter.examples), tuple(counter.broken))


class _Counter:
    """What goes over the bounds of sources: fingerprints, lengths, examples."""

    def __init__(self, vocabulary: Vocabulary | None, examples: int) -> None:
        self._vocabulary = vocabulary
        self._n_examples = examples
        self._seen: set[bytes] = set()
        self.lengths = array("q")
        self.examples: list[Document] = []
        self.broken: list[str] = []

    def read(self, source: Source, count: Callable[[int], None] | None) -> Part:
        part = Part(source.path_or_name)
        if self._vocabulary is not None:
            part.tokens = part.learnt_tokens = part.changed = 0

        def note(error: DataError) -> None:
            part.broken += 1
            if len(self.broken) < _MAX_BROKEN:
                self.broken.append(str(error))

        for documents in batched(read_documents(source, broken=note, count=count), _BATCH_CHARACTERS):
            self.examples += documents[: max(0, self._n_examples - part.documents)]
            for document in documents:
                self._count(document, part)
            if self._vocabulary is not None:
                self._count_tokens(documents, part, self._vocabulary)
        return part

    def _count(self, document: Document, part: Part) -> None:
        encoded = document.text.encode()
        fingerprint = blake2b(encoded, digest_size=16).digest()
        licence = document.licence or NOT_STATED
        part.documents += 1
        part.bytes += len(encoded)
        part.characters += (characters := document.n_characters)
        part.learnt_characters += sum(len(segment.text) for segment in document.segments if segment.learn)
        part.duplicates += fingerprint in self._seen
        part.licences[licence] = part.licences.get(licence, 0) + 1
        self._seen.add(fingerprint)
        if self._vocabulary is None:
            self.lengths.append(characters)

    def _count_tokens(self, documents: list[Document], part: Part, vocabulary: Vocabulary) -> None:
        assert part.tokens is not None
        assert part.learnt_tokens is not None
        assert part.changed is not None
        for document, (ids, learn) in zip(documents, vocabulary.encode_batch(documents), strict=True):
            part.tokens += len(ids)
            part.learnt_tokens += len(ids) if learn is None else sum(learn)
            part.changed += not vocabulary.round_trips(document, ids)
            self.lengths.append(len(ids))


def _sum(parts: Sequence[Part]) -> Part:
    total = Part("total")
    for name in ("documents", "bytes", "characters", "learnt_characters", "duplicates", "broken"):
        setattr(total, name, sum(getattr(part, name) for part in parts))
    if parts[0].tokens is not None:
        for name in ("tokens", "learnt_tokens", "changed"):
            setattr(total, name, sum(getattr(part, name) for part in parts))
    for part in parts:
        for licence, n in part.licences.items():
            total.licences[licence] = total.licences.get(licence, 0) + n
    return total


def _example(document: Document) -> dict[str, Any]:
    left, segments = _EXAMPLE_CHARACTERS, []
    for segment in document.segments:
        if left > 0:
            segments.append({"text": segment.text[:left], "learn": segment.learn})
        left -= len(segment.text)
    return {"origin": document.origin, "licence": document.licence, "segments": segments, "cut": left < 0}
