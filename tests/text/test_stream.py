"""Text as it is generated: no half characters, and nothing shown that a stop string would take back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import spm_tokenizer

from ingle.errors import UsageError
from ingle.text import StopScanner, TextStream, Tokenizer

MERGES = (
    "h e",
    "l l",
    "\u0120 h",
    "\u00f0 \u0141",
    "\u00e4 \u00b8",
    "\u0141 \u013a",
)  # parts of an emoji, of a Chinese letter


@pytest.fixture(scope="module")
def tokenizer(byte_level: Callable[..., dict[str, object]]) -> Tokenizer:
    return Tokenizer.from_metadata(byte_level(MERGES, control=("<end>",)))


@settings(deadline=None)
@given(st.data())
def test_the_pieces_of_a_stream_are_the_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Also for ids that are no text at all: bytes that never become a character."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.n_vocab - 1), max_size=30))
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in ids] + [stream.finish()]
    raw = b"".join(tokenizer.token_bytes(i) for i in ids if not tokenizer.is_control(i))
    assert "".join(pieces) == raw.decode("utf-8", "replace") == tokenizer.decode(ids, skip_special=True)


@settings(deadline=None)
@given(st.data())
def test_text_comes_as_soon_as_it_is_certain_and_no_sooner(
    tokenizer: Tokenizer, texts: st.SearchStrategy[str], data: st.DataObject
) -> None:
    text = data.draw(texts)
    stream, shown, raw = TextStream(tokenizer), "", b""
    for token_id in tokenizer.encode(text):
        shown += stream.push(token_id)
        raw += tokenizer.token_bytes(token_id)
        assert shown == raw.decode("utf-8", "ignore")  # the whole characters so far
    assert shown == text
    assert stream.finish() == ""


def test_an_unfinished_character_is_replaced_at_the_end_only(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in tokenizer.encode("a\u4e2d")[:-1]] == ["a", ""]
    assert stream.finish() == "\ufffd"


def test_control_tokens_are_shown_on_request(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("he<end>he", parse_special=True)
    assert tokenizer.decode(ids) == "he<end>he"
    assert tokenizer.decode(ids, skip_special=True) == "hehe"


def test_the_first_space_of_sentencepiece_is_kept_in_a_continuation() -> None:
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "\u2581a"],
        "tokenizer.ggml.scores": [0.0] * 4,
        "tokenizer.ggml.token_type": [2, 3, 3, 1],
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    for continuation, expected in ((False, "a a"), (True, " a a")):
        stream = TextStream(tokenizer, continuation=continuation)
        assert "".join(stream.push(i) for i in (1, 3, 3)) == expected
    without = Tokenizer.from_metadata(metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert TextStream(without).push(3) == " a"


SENTENCEPIECE = spm_tokenizer()
BYTES_OF_E = st.sampled_from([3 + 0xC3, 3 + 0xA9])  # the two bytes of an e with an acute accent, whole or not


@settings(deadline=None)
@given(
    st.lists(BYTES_OF_E | st.sampled_from([0, 1, 2, 259, 260, 265, 270, 275, 287]), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_spaces_control_tokens_and_parts_of_characters_in_any_order(ids: list[int], skip: bool, goes_on: bool) -> None:
    raw, strip = b"", not goes_on
    for token_id in ids:
        if not SENTENCEPIECE.is_control(token_id):
            word = SENTENCEPIECE.token_bytes(token_id)
            raw += word.removeprefix(b" ") if strip else word
            strip = False
        elif not skip:
            raw += SENTENCEPIECE.token_bytes(token_id)
            strip = True
    stream = TextStream(SENTENCEPIECE, skip_special=skip, continuation=goes_on)
    pieces = [stream.push(token_id) for token_id in ids] + [stream.finish()]
    assert "".join(pieces) == raw.decode("utf-8", "replace")


ALPHABET = st.text("ab\n", max_size=12)


@settings(deadline=None)
@given(st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.lists(ALPHABET, max_size=8))
def test_stop_strings(stops: list[str], pieces: list[str]) -> None:
    """Whatever the pieces: the text before the stop string that is complete first, and all of it if there is none."""
    text = "".join(pieces)
    ends = [(end, stop) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    expected = text
    if ends:
        first_end = min(end for end, _ in ends)
        expected = text[: min(first_end - len(stop) for end, stop in ends if end == first_end)]
    scanner, shown, seen = StopScanner(stops), "", ""
    for piece in pieces:
        seen += piece
        emitted, stopped = scanner.push(piece)
        shown += emitted
        assert stopped == scanner.stopped == any(end <= len(seen) for end, _ in ends)
        if not stopped:  # nothing is held back that cannot become a stop string
            held = seen[len(shown) :]
            assert seen == shown + held
            assert not held or any(stop.startswith(held) for stop in stops)
    assert shown + scanner.finish() == expected


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one character"):
        StopScanner(["a", ""])
