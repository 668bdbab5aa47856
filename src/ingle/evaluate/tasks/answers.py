"""F1 between an answer and the names it may have, as TriviaQA counts it beside exact match (Joshi et al., 2017)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

__all__ = ["f1_of_answer"]

_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation + "‘’´"), " ")  # noqa: RUF001
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def f1_of_answer(answer: str, names: Iterable[str]) -> float:
    """The best F1, over the names, between the words of the answer and of the name: 0 to 1.

    Words are compared without case, punctuation and articles, and as a bag. 0 where there are no names, and where an
    answer or a name has nothing left to compare, as in TriviaQA's own script (SQuAD's gives 1 to two that are empty).
    """
    words = _words(answer)
    return max((_f1(words, _words(name)) for name in names), default=0.0)


def _words(text: str) -> Counter[str]:
    return Counter(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(found: Counter[str], right: Counter[str]) -> float:
    shared = (found & right).total()
    return 2 * shared / (found.total() + right.total()) if shared else 0.0
