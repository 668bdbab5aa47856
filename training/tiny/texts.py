"""What ingle-tiny reads to learn English: stories, books, simple news, encyclopaedia articles, short answers.

`python texts.py SHARED_DATA OUT` writes one JSON Lines file a source. Licences and credits: SOURCES in MODEL_CARD.md.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "stories"))
import corpus

#: Public-domain books that are told to children, by author and title.
CHILDRENS_BOOKS = (
    "Abbie Farwell Brown/",
    "Anna Sewell/",
    "Edith Nesbit/",
    "Frances Hodgson Burnett/",
    "Hans Christian Andersen/",
    "Hugh Lofting/",
    "Johanna Spyri/",
    "L. Frank Baum/",
    "Lucy Maud Montgomery/Anne of Green",
    "Lucy Maud Montgomery/Chr",
    "Oscar Wilde/The Happy",
    "Rudyard Kipling/The Jungle",
    "Lewis Carroll/",
    "Carlo Collodi/",
    "Kenneth Grahame/",
    "James M. Barrie/",
    "J. M. Barrie/",
    "Jacob Grimm/",
    "Brothers Grimm/",
    "Aesop/",
)
PARAGRAPHS = 1600  # characters of a piece of a book or article
WIKI_BYTES = 7 << 20


def chat(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def pieces(text: str, size: int = PARAGRAPHS) -> Iterator[str]:
    """Whole paragraphs, together at most about `size` characters."""
    held: list[str] = []
    for paragraph in corpus.tidy(text).splitlines():
        if held and sum(map(len, held)) + len(paragraph) > size:
            yield "\n".join(held)
            held = []
        held.append(paragraph)
    if held:
        yield "\n".join(held)


def stories(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Stories as they are, and as answers to a request or to their first words."""
    loaded = corpus.load(folder)
    told = loaded.train["tinystories"]
    rng = random.Random(4)
    plain = [{"text": story} for story in [*told, *loaded.train["books"]]]
    asked = []
    for story, wishes in zip(told, corpus.requests(told), strict=True):
        if rng.random() < 0.35:  # `ingle run "Once upon a time"`: the answer begins with what was given
            words = story.split()
            asked.append(chat(" ".join(words[: rng.choice((3, 4, 4, 4, 5, 6, 8))]).rstrip(",."), story))
        else:
            wish = rng.choice(wishes)
            if rng.random() < 0.3:
                wish = wish[0].lower() + wish[1:].rstrip(".")
            asked.append(chat(wish, story))
    return plain, asked


def archive(path: Path, wanted: Iterable[str] = ("",)) -> Iterator[str]:
    with tarfile.open(path) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if member.isfile() and any(member.name.removeprefix("./").startswith(name) for name in wanted):
                handle = tar.extractfile(member)
                assert handle is not None
                yield handle.read().decode("utf-8", "replace")


def books(folder: Path) -> Iterator[dict[str, Any]]:
    for book in archive(folder / "classics_fk95.tar.xz", CHILDRENS_BOOKS):
        joined = re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"[*_#>]+", "", book))
        for piece in pieces(joined):
            if piece.isascii() and len(piece) > 300:
                yield {"text": piece}


def news(folder: Path) -> Iterator[dict[str, Any]]:
    """OneStopEnglish: the elementary and intermediate levels."""
    names = [f"Texts-SeparatedByReadingLevel/{level}-Txt" for level in ("Ele", "Int")]
    for text in archive(folder / "onestopenglish_3levels.tar.xz", names):
        for piece in pieces(text.removeprefix("\ufeff").replace("Intermediate", "", 1)):
            yield {"text": piece}


def wiki(folder: Path) -> Iterator[dict[str, Any]]:
    """The beginnings of articles."""
    size = 0
    for file in archive(folder / "enwiki_extract_20x1MB.tar.xz"):
        for article in re.findall(r"<doc[^>]*>\n(.*?)</doc>", file, re.S):
            piece = next(pieces(re.sub(r"\(\s*[,;]?\s*\)", "", article)), "")
            if len(piece) > 300 and sum(map(str.isascii, piece)) > 0.98 * len(piece):
                size += len(piece)
                yield {"text": piece}
        if size > WIKI_BYTES:
            return


def dolly(path: Path) -> Iterator[dict[str, Any]]:
    """Questions with a short answer, without a text to read first."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        asked, answer = (corpus.tidy(record[key]) for key in ("instruction", "response"))
        if not record["context"] and len(asked) < 200 and 4 < len(answer) < 450 and (asked + answer).isascii():
            yield chat(asked, answer)


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(lines)} documents, {path.stat().st_size / 1e6:.1f} MB", flush=True)


def main(shared: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    plain, asked = stories(shared / "text")
    write(out / "stories.jsonl", plain)
    write(out / "story_requests.jsonl", asked)
    write(out / "books.jsonl", books(shared / "text"))
    write(out / "news.jsonl", news(shared / "text"))
    write(out / "wiki.jsonl", wiki(shared / "text"))
    write(out / "questions.jsonl", dolly(shared / "instruct" / "dolly15k_en.jsonl"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
