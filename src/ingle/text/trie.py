"""A vocabulary as llguidance wants it: the bytes of each token in a trie, and how forced text becomes tokens.

Two traps are dealt with here. A SentencePiece vocabulary encodes a text as if a space stood before it, but forced text
goes on from other text: it is encoded behind a marker, which is taken away again. And a grammar is about what people
see, so the trie has a token's bytes as they add to the text ("<tool_call>" too, where it is a token of its own; then
one token and its spelling in pieces are both that text); control tokens are no text and stand outside of it.
"""

from __future__ import annotations

import weakref
from threading import Lock
from typing import TYPE_CHECKING

from ingle.errors import GrammarError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from ingle.text.tokenizer import Tokenizer

__all__ = ["trie_of"]

MAX_TOKEN_BYTES = 1000  # llguidance's trie is no deeper; the few longer tokens (of spaces) are never needed
MARKER = "\x02"  # a character that no merge reaches across

_tries: weakref.WeakKeyDictionary[Tokenizer, LLTokenizer] = weakref.WeakKeyDictionary()
_lock = Lock()


def trie_of(tokenizer: Tokenizer) -> LLTokenizer:
    """The tokenizer's trie; it is built once (some 3 us a token). Raises GrammarError for one without an end token."""
    with _lock:
        found = _tries.get(tokenizer)
        if found is None:
            found = _tries[tokenizer] = _build(tokenizer)
    return found


def _build(tokenizer: Tokenizer) -> LLTokenizer:
    from llguidance import LLTokenizer

    if not tokenizer.eog_ids:
        raise GrammarError("This model has no token that ends a text, which a grammar needs; answer without a grammar.")
    words = _Words(tokenizer)
    trie = LLTokenizer(words, eos_token=sorted(tokenizer.eog_ids))  # type: ignore[arg-type]  # it has what is asked for
    words.tokens = []  # they have been copied
    return trie


class _Words:
    """What llguidance asks of a tokenizer: bytes of all tokens, which of them are control tokens, and encoding."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Weak: the trie that holds this is itself kept for as long as the tokenizer is there.
        self._tokenizer = weakref.ref(tokenizer)
        self._longest: dict[bytes, int] | None = None
        self.eos_token_id = min(tokenizer.eog_ids)
        self.special_token_ids = [i for i in range(tokenizer.n_vocab) if tokenizer.is_control(i)]
        self.tokens = _token_bytes(tokenizer)

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text that goes on from other text. Called by llguidance for text that a grammar forces."""
        tokenizer = self._tokenizer()
        assert tokenizer is not None  # a matcher holds it
        given = text.decode() if isinstance(text, bytes) else text
        for before in ("", MARKER):
            ids = tokenizer.encode(before + given, add_special=False)
            spelt = [_bytes_of(tokenizer, token_id) for token_id in ids]
            start = 1 + spelt.index(MARKER.encode()) if before and MARKER.encode() in spelt else 0
            if b"".join(spelt[start:]) == given.encode() and not any(map(tokenizer.is_control, ids[start:])):
                return ids[start:]
        # The tokenizer rewrites this text (Unicode's forms, spaces), or has a token for it that the trie has not.
        return self._greedy(tokenizer, given.encode())

    def _greedy(self, tokenizer: Tokenizer, text: bytes) -> list[int]:
        """The longest token first, from left to right, up to what no token begins with: no token can follow there."""
        if self._longest is None:
            tokens = enumerate(_token_bytes(tokenizer))
            self._longest = {word: i for i, word in tokens if word and not tokenizer.is_control(i)}
        most = max(map(len, self._longest))
        ids, position = [], 0
        while position < len(text):
            lengths = range(min(most, len(text) - position), 0, -1)
            length = next((n for n in lengths if text[position : position + n] in self._longest), 0)
            if not length:
                break
            ids.append(self._longest[text[position : position + length]])
            position += length
        return ids


def _token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    return [_bytes_of(tokenizer, token_id) for token_id in range(tokenizer.n_vocab)]


def _bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes:
    """What the trie has of a token."""
    word = tokenizer.token_bytes(token_id)
    return word if len(word) <= MAX_TOKEN_BYTES else b""
