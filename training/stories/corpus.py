"""The children's stories the story model learns from: reading, cleaning, restoring capitals, splitting.

`load(folder)` reads the four files named in DATA.md and returns training and validation stories, one string each.
`python corpus.py FOLDER` writes CREDITS.tsv: title, author and licence of every Creative Commons story used.
"""

from __future__ import annotations

import math
import random
import re
import sys
import tarfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

CASED, LOWERED = "tinystories_train_first2MiB_cased.txt", "tinystories_train_first4MB_lowercased.txt"
BOOKS = {"African Storybook": "asp-source_en.tar.xz", "Pratham Books": "pb-source_en.tar.xz"}
HELD_OUT = {"tinystories": 120, "books": 40}
ASKS = ("Tell me a story", "Write a story", "Please tell me a story", "Can you tell me a story", "Write a short story")
# Words that stand like nouns in "the ... was" but make no subject for a story.
NO_SUBJECT = frozenset(
    re.findall(
        r"\w+",
        "and back beautiful big bit bright dark day end face first good great help hug little long look lot minute "
        "moment most name nap new one other own pain pieces place ride same show sign smile sudden swim tight time "
        "top turn voice walk warm way while",
    )
)
TYPEWRITER = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'", "\u00b4": "'"}
    | {"\u2013": "-", "\u2014": "-", "\u2026": "...", "\u00a0": " "}
)
# Some stories were decoded as Windows-1252 upstream: the three bytes of a curly quote became two or three characters.
MOJIBAKE = {
    "\u00e2\u20ac" + third: plain
    for third, plain in {
        **{"\u0153": '"', "\u2122": "'", "\u02dc": "'", "\u00a6": "...", "\u201c": "-", "\u201d": "-", "\u009d": '"'},
        "": '"',
    }.items()
}
WORD = re.compile(r"[A-Za-z][A-Za-z']*")


@dataclass(frozen=True)
class Book:
    """One openly licensed picture-book story: where it came from, whom to credit, and its text."""

    collection: str
    file: str
    title: str
    author: str
    licence: str
    text: str


@dataclass(frozen=True)
class Stories:
    """Stories split by document; `train` and `held_out` have the same keys: "tinystories" and "books"."""

    train: dict[str, list[str]]
    held_out: dict[str, list[str]]


def tidy(text: str) -> str:
    """Typewriter punctuation, single spaces, one line break between paragraphs."""
    for wrong, right in MOJIBAKE.items():
        text = text.replace(wrong, right)
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.translate(TYPEWRITER).splitlines())
    return "\n".join(line for line in lines if line)


def plain(story: str) -> bool:
    """True for a story of a useful length in ASCII throughout (what `tidy` could not mend is dropped)."""
    return story.isascii() and 150 <= len(story) <= 8000 and story[-1] in ".!?\"'"


class TrueCaser:
    """Restores capitals in lowered text by the most specific context seen often enough in cased text."""

    def __init__(self, cased: list[str]) -> None:
        self.counts: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
        for story in cased:
            for word, keys in self._words(story, story.lower()):
                for key in keys:
                    self.counts[key][word[0].isupper()] += 1

    @staticmethod
    def _words(story: str, lowered: str) -> list[tuple[str, list[tuple[str, ...]]]]:
        """Each word of `story` with its context keys, most specific first: neighbours, itself, punctuation."""
        spans = [match.span() for match in WORD.finditer(lowered)]
        found = []
        for i, (start, end) in enumerate(spans):
            end_before = spans[i - 1][1] if i else 0
            between = lowered[end_before:start].replace(" ", "") if i else "^"
            before = lowered[slice(*spans[i - 1])] if i else ""
            word = lowered[start:end].removesuffix("'s")
            after = lowered[slice(*spans[i + 1])] if i + 1 < len(spans) else ""
            keys: list[tuple[str, ...]] = [("3", before, between, word, after), ("a", between, word, after)]
            keys += [("b", before, between, word), ("w", between, word), ("p", between)]
            found.append((story[start:end], keys))
        return found

    def __call__(self, lowered: str) -> str:
        """`lowered` with capitals at sentence starts, in "I" and in names, including names this story introduces."""
        introduced = {
            name
            for name in re.findall(r"\b(?:named|called|name was|name is|friends?,) ([a-z]+)", lowered)
            if not self.counts.get(("w", "", name))
        }
        pieces, at = [], 0
        for match, (word, keys) in zip(WORD.finditer(lowered), self._words(lowered, lowered), strict=True):
            lower, upper = next((self.counts[key] for key in keys if sum(self.counts.get(key, (0,))) >= 3), (1, 0))
            capital = upper > lower or word.removesuffix("'s") in introduced
            pieces += [lowered[at : match.start()], word[0].upper() + word[1:] if capital else word]
            at = match.end()
        return "".join(pieces) + lowered[at:]


def split_lowered(text: str, openings: Counter[str]) -> list[str]:
    """Stories of the lowered file: a lone line break parts two if what follows is long or opens as stories do."""
    stories: list[str] = []
    for chunk in re.split(r"(?<!\n)\n(?!\n)", text):
        opening = " ".join(chunk.split()[:2])
        if not stories or len(chunk) > 400 or (openings[opening] >= 2 and len(chunk) > 200):
            stories.append(chunk)
        else:
            stories[-1] += "\n" + chunk
    return [tidy(story) for story in stories]


def tinystories(folder: Path) -> tuple[list[str], list[str]]:
    """TinyStories: the cased stories, and the lowered file's stories past the last of them with capitals restored."""
    # The last cased story is cut short by the end of the file.
    cased = [tidy(part) for part in (folder / CASED).read_text(encoding="utf-8").split("<|endoftext|>")[:-1]]
    openings = Counter(" ".join(story.lower().split()[:2]) for story in cased)
    both = (folder / LOWERED).read_text(encoding="utf-8")
    past = both.index("\n", both.index(cased[-1].splitlines()[-1].lower()))
    caser = TrueCaser(cased)
    restored = [caser(story) for story in split_lowered(both[past + 1 :], openings)[:-1]]
    return [s for s in cased if plain(s)], [s for s in restored if plain(s)]


def books(folder: Path) -> list[Book]:
    """The CC-BY and public-domain picture books; lines broken for page layout are joined again."""
    found = []
    for collection, archive in BOOKS.items():
        with tarfile.open(folder / archive) as tar:
            for member in sorted(tar.getmembers(), key=lambda m: m.name):
                handle = tar.extractfile(member)
                if handle is None:
                    continue
                source = handle.read().decode("utf-8")
                fields = dict(re.findall(r"^\* (License|Text): (.*)$", source, re.M))
                licence = fields.get("License", "").strip("[] ")
                if licence not in ("CC-BY", "Public Domain"):
                    continue
                title, _, body = source.partition("\n")
                body = re.split(r"^\* License", body, flags=re.M)[0]
                pages = (re.sub(r"(?<![.!?:\"'])\n", " ", tidy(page)) for page in re.split(r"^##.*$", body, flags=re.M))
                text = tidy("\n".join(pages))
                if plain(text):
                    author = fields.get("Text", "").strip()
                    found.append(Book(collection, member.name, title.strip("# "), author, licence, text))
    return found


def load(folder: Path, seed: int = 1) -> Stories:
    """All stories under `folder`, without repeats, split by document; only originally cased stories are held out."""
    cased, restored = tinystories(folder)
    shelves = {"tinystories": list(dict.fromkeys(cased)), "books": list(dict.fromkeys(b.text for b in books(folder)))}
    train, held_out = {}, {}
    for name, shelf in shelves.items():
        random.Random(seed).shuffle(shelf)
        held_out[name], train[name] = shelf[: HELD_OUT[name]], shelf[HELD_OUT[name] :]
    train["tinystories"] += [story for story in dict.fromkeys(restored) if story not in set(held_out["tinystories"])]
    return Stories(train, held_out)


def requests(stories: list[str], seed: int = 2) -> list[list[str]]:
    """For each story, requests that it would answer, such as "Tell me a story about a dog and a ball."

    A subject is a singular noun that the story repeats, names early and shares with few others; nouns are told by the
    words around them.
    """
    after = r"(?=[.,!?]| (?:was|is|had|and|in|named|that|said|who|on|with)\b)"
    noun = re.compile(rf"\b(?:a|an|the|her|his) ([a-z]{{3,}}){after}")
    single = re.compile(rf"\ban? (?:[a-z]+ )?([a-z]{{3,}}){after}")
    found = [set(noun.findall(story)) for story in stories]
    seen_in = Counter(word for words in found for word in words)
    one = Counter(word for story in stories for word in set(single.findall(story)))
    kept = {w for w, n in seen_in.items() if 8 <= n <= len(stories) / 8 and one[w] >= n / 8 and w not in NO_SUBJECT}
    rng, out = random.Random(seed), []
    for story, words in zip(stories, found, strict=True):
        rank = {w: len(re.findall(rf"\b{w}\b", story)) * math.log(len(stories) / seen_in[w]) for w in words & kept}
        rank = {w: score * (2 if w in story[:250] else 1) for w, score in rank.items()}
        best = sorted(rank, key=lambda w: (-rank[w], w))[:2]
        rng.shuffle(best)
        things = [("an " if word[0] in "aeiou" else "a ") + word for word in best]
        name = re.search(r"\b(?:named|called) ([A-Z][a-z]+)", story)
        both = [" and ".join(things)] if len(things) == 2 else []
        about = [*things, *things, *both, *(name.groups() if name else ())]
        wishes = [f"{ask} about {thing}" for ask in ASKS for thing in about] + list(ASKS)
        out.append([wish + ("?" if wish.startswith("Can") else ".") for wish in wishes])
    return out


if __name__ == "__main__":
    rows = [("collection", "file", "title", "author", "licence")]
    rows += [(b.collection, b.file, b.title, b.author, b.licence) for b in books(Path(sys.argv[1]))]
    Path(__file__).with_name("CREDITS.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
