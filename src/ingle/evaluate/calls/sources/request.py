"""A request of a public data set, and which split it belongs to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Request", "Split", "normalised", "split_of"]

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Request:
    """Something said, the tool it calls for, and its slots as (argument, words of the text), in the text's order.

    tool: None where no tool fits, whatever is offered. subject: tools of this subject may fit it.
    """

    text: str
    tool: str | None
    slots: tuple[tuple[str, str], ...] = ()
    subject: str = ""


def normalised(text: str) -> str:
    """Without case, punctuation and repeated spaces: what two tellings of one request have in common."""
    return " ".join(re.findall(r"\w+", text.lower()))


def split_of(text: str) -> Split:
    """A tenth of all texts is "test", a fiftieth "validation", by a hash of the normalised text.

    So the same words are in the same split in whichever data set they occur (HWU64 and SLURP share many requests).
    """
    digest = hashlib.sha256(normalised(text).encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < 0.1 else "validation" if share < 0.12 else "train"
