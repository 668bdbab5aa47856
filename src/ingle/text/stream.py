"""Text while it is being generated: whole characters only, and stop strings held back until they are certain."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ingle.errors import UsageError

if TYPE_CHECKING:
    from ingle.text.tokenizer import Tokenizer

__all__ = ["StopScanner", "TextStream"]


class TextStream:
    """Turns token ids into text as they come; all that `push` and `finish` return is the text `Tokenizer.decode` gives.

    `skip_special` leaves control tokens out. `continuation` says that the tokens go on from other text: then the space
    that SentencePiece puts before a text is a real space, and stays.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strip_space = tokenizer.space_prefix and not continuation
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._plain = not self._strip_space  # no space is to be taken away, and no part of a character waits

    def push(self, token_id: int) -> str:
        """Add one token; returns the text that is now certain, "" in the middle of a character."""
        if self._plain:
            whole = self._tokenizer.whole_text(token_id)
            if whole is not None:
                return whole
        text = self._push(token_id)
        self._plain = not (self._strip_space or self._decoder.getstate()[0])
        return text

    def _push(self, token_id: int) -> str:
        text = self._tokenizer.token_bytes(token_id)
        if self._tokenizer.is_control(token_id):
            if self._skip_special:
                return ""
            # encode() prefixes a space at the start and after each control token; here it is taken away again.
            self._strip_space = self._tokenizer.space_prefix
        elif self._strip_space:
            self._strip_space = False
            text = text.removeprefix(b" ")
        return self._decoder.decode(text)

    def finish(self) -> str:
        """No more tokens will come: what is left of an unfinished character, as U+FFFD."""
        self._plain = not self._strip_space
        return self._decoder.decode(b"", final=True)


class StopScanner:
    """Cuts a stream of text before a stop string, holding back only what may become one.

    The stop string that is complete first counts, whatever pieces the text comes in.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        if not all(self._stops):
            raise UsageError("Expected stop strings with at least one character, got an empty one.")
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; returns the text that is certain to come before any stop string, and whether one was found."""
        if not self._stops:
            return text, False
        if self.stopped:
            return "", True
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]], True
        keep = self._beginning_of_stop(text)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut], False

    def finish(self) -> str:
        """No more text will come: what was held back, which was no stop string after all."""
        text, self._held = self._held, ""
        return text

    def _beginning_of_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
