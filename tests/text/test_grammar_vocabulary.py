"""What a grammar makes of a vocabulary: which tokens can be said at all, and what becomes of a text that none spell."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from ingle.errors import GrammarError
from ingle.text import Tokenizer
from ingle.text.grammar import Grammar, Matcher
from text.small_vocabularies import byte_level_tokenizer, spm_tokenizer


def test_a_tokenizer_without_an_end_has_no_grammars(byte_level: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(GrammarError, match="no token that ends"):
        Grammar.regex("a").matcher(Tokenizer.from_metadata(byte_level()))


def test_control_tokens_are_no_text(byte_level: Callable[..., dict[str, object]]) -> None:
    tokenizer = byte_level_tokenizer(byte_level, control=("<|end|>", "<|user|>"), eos_token_id=267)
    mask = Grammar.regex("(?s:.*)").matcher(tokenizer).mask()
    user = tokenizer.token_id("<|user|>")
    assert tokenizer.is_control(user)
    assert not mask[user]
    assert mask[267]


def test_a_token_that_is_too_long_for_the_trie_is_never_said(byte_level: Callable[..., dict[str, object]]) -> None:
    tokenizer = byte_level_tokenizer(byte_level, added=("-" * 1000, "-" * 1001), eos_token_id=269)
    assert Grammar.regex("-*").matcher(tokenizer).mask()[[267, 268]].tolist() == [True, False]
    forced = Grammar.regex("-{3001}!").matcher(tokenizer).forced()
    assert [len(tokenizer.token_bytes(token_id)) for token_id in forced] == [1000, 1000, 1000, 1, 1]


def test_a_forced_text_that_no_tokens_spell_ends_in_a_sentence(byte_level: Callable[..., dict[str, object]]) -> None:
    """A vocabulary of Unicode's form C that has no use for the first byte of a lone accent, and does not have it."""
    metadata = byte_level(control=("<|end|>",), eos_token_id=256, pre="mpt")
    tokens = list(cast(list[str], metadata["tokenizer.ggml.tokens"]))
    tokens[0xCC] = "a" * 9
    tokenizer = Tokenizer.from_metadata(metadata | {"tokenizer.ggml.tokens": tokens})
    matcher = Grammar.json_schema({"enum": ["e\u0301"]}).matcher(tokenizer)
    forced = matcher.forced()
    assert tokenizer.decode(forced) == '"e'
    for token_id in forced:
        assert np.flatnonzero(matcher.mask()).tolist() == [token_id]
        matcher.advance(token_id)
    with pytest.raises(GrammarError, match="cannot be followed"):
        matcher.mask()


def test_a_tokenizer_is_not_kept_by_its_trie() -> None:
    tokenizer = spm_tokenizer()
    matcher: Matcher | None = Grammar.regex("a").matcher(tokenizer)
    seen = weakref.ref(tokenizer)
    del tokenizer, matcher
    gc.collect()
    assert seen() is None
