"""A document: what a model reads from beginning to end, in segments that are learnt or only read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Document", "Segment", "batched", "well_formed"]

_BATCH_DOCUMENTS = 2**13


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a document.

    learn: whether the model is trained to write it; if not it is only read (its tokens have no loss).
    special: whether control tokens such as "<|im_start|>" in `text` are control tokens. In all other segments they are
    ordinary text, so that what people wrote cannot pose as the frame around it.
    """

    text: str
    learn: bool = True
    special: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """Segments in order, none of them empty; where they come from ("file.jsonl:12"); the licence, if it is known."""

    segments: tuple[Segment, ...]
    origin: str
    licence: str | None = None

    @property
    def text(self) -> str:
        """All of it as one text."""
        return "".join(segment.text for segment in self.segments)

    @property
    def n_characters(self) -> int:
        """The length of `text`, without making it."""
        return sum(len(segment.text) for segment in self.segments)


def well_formed(text: str) -> str:
    """Half surrogate pairs (JSON cut within a character) as U+FFFD: no encoding of Unicode can hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def batched(documents: Iterable[Document], n_characters: int) -> Iterator[list[Document]]:
    """Documents of at least so many characters together, or 8192 of them, at a time: enough to keep all processors
    tokenising, in bounded memory."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.n_characters
        if size >= n_characters or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
