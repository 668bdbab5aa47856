"""Grammars: what an answer may be, and which tokens may come next so that it becomes that.

A `Grammar` is about text, and belongs to no model. Its `matcher` for a model's tokenizer says, after each token, which
tokens can follow; with all others masked, whatever is drawn is a text of the grammar, up to where it is cut off. The
parsing is llguidance's (MIT; Earley over derivatives of regular expressions). Where the grammar leaves no choice of
text the mask has one token, the tokenizer's own: a model is never led to a spelling that it has not been taught.

JSON is written as `json.dumps` and chat templates do: ", " and ": ", nothing else between values, letters as they are.
Object keys come in the order of their schema. JSON Schema, as far as llguidance has it: draft 2020-12 but for `not`,
`if`, `dependentSchemas`, `uniqueItems`, `contains`, `propertyNames`, look-arounds in patterns, and references to other
documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ingle.errors import GrammarError
from ingle.text.json_schema import bounded, check_count, json_rule, n_properties
from ingle.text.tools import Tool
from ingle.text.trie import trie_of

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from ingle.text.tokenizer import Tokenizer

__all__ = ["Grammar", "Matcher", "checked"]

MAX_CHARACTERS = 1 << 22  # of a grammar: tools of 2^20, and their names once more


@dataclass(frozen=True, slots=True)
class Grammar:
    """A set of texts. Make one with `json_schema`, `regex`, `lark` or `tool_calls`; equal sources are equal grammars.

    spaced: the same texts, each with and without a space before it, for tokenizers that put one there.
    warnings: what in the schemas of tools the grammar does not hold answers to.
    """

    source: str
    spaced: str = field(repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any], *, strict: bool = True) -> Grammar:
        """The JSON values of a schema ({} is any). Raises GrammarError for what cannot be a grammar.

        strict: keywords that cannot be enforced are an error; else they are left to the model, and told in `warnings`.
        """
        check_count(n_properties(schema, "The schema"), "The schema's objects")
        return checked(f"start: {json_rule(bounded(schema), 'The schema', lenient=not strict)}", "The schema")

    @classmethod
    def json_object(cls) -> Grammar:
        """Any object of JSON."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def response_format(cls, value: object) -> Grammar | None:
        """What `response_format` of the OpenAI API asks for; None for text, which may be anything.

        Taken are {"type": "text"}, {"type": "json_object"}, and {"type": "json_schema", "json_schema": {"name": ...,
        "strict": ..., "schema": ...}}, also with these three beside "type" as the Responses API has them. "strict"
        refuses keywords that cannot be enforced; without it they are in `warnings`. Raises GrammarError for all else.
        """
        kind = value.get("type") if isinstance(value, Mapping) else None
        if value is None or kind == "text":
            return None
        if kind == "json_object":
            return cls.json_object()
        if not isinstance(value, Mapping) or kind != "json_schema":
            raise GrammarError(
                f"The response format has the type {str(kind)[:80]!r}; expected 'text', 'json_object' or 'json_schema'."
            )
        wrapper = value.get("json_schema", value)
        schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
        if not isinstance(wrapper, Mapping) or not isinstance(schema, Mapping):
            raise GrammarError(
                'The response format has no schema; expected an object in its "json_schema", as "schema".'
            )
        if not isinstance(wrapper.get("strict", False), bool | None):
            raise GrammarError('The response format has a "strict" that is no truth value; expected true or false.')
        return cls.json_schema(schema, strict=bool(wrapper.get("strict")))

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """The texts that a regular expression matches from end to end (in the syntax of Rust: no look-around)."""
        from llguidance import regex_to_lark

        _check_size(pattern, "The regular expression")
        return checked(f"start: /{regex_to_lark(pattern, '')}/", "The regular expression")

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """The texts of a context-free grammar in the words of Lark, as llguidance reads it; it begins at `start`."""
        return checked(text, "The grammar")

    @classmethod
    def tool_calls(
        cls, tools: Sequence[Tool], mode: Literal["auto", "required", "none"] = "auto", many: bool = False
    ) -> Grammar:
        """Answers of a model that has these tools.

        "auto": a text without call markup, and then perhaps a call, with which the answer ends. "required": a call.
        "none": a text. A call is <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call> with a tool's name and
        arguments by its schema; `many` allows several, a line break between them. Other arguments than a schema has are
        not allowed, unless it says so itself; what of it cannot be enforced is left to the model, and told in
        `warnings`.
        Raises GrammarError for a schema that cannot be a grammar, and for "required" without tools.
        """
        from ingle.text.calls.hermes import HERMES
        from ingle.text.calls.lark import calls_grammar

        return calls_grammar(HERMES, tools, mode, many)

    def matcher(self, tokenizer: Tokenizer, *, continuation: bool = False) -> Matcher:
        """Follows one answer. continuation: its first space belongs to it, also where the tokenizer puts one there.

        Raises GrammarError for a tokenizer without an end token.
        """
        from llguidance import LLMatcher

        source = self.spaced if tokenizer.space_prefix and not continuation else self.source
        matcher = LLMatcher(trie_of(tokenizer), source, log_level=0, limits=_limits())
        return Matcher(matcher, tokenizer)


class Matcher:
    """Where an answer stands in a grammar. For one thread at a time."""

    def __init__(self, matcher: LLMatcher, tokenizer: Tokenizer) -> None:
        """Most people want `Grammar.matcher`."""
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._ended = False
        self._expect_sound()

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next, bool [n_vocab]; end tokens only where the grammar is complete.

        Raises GrammarError when the answer has ended, and where the grammar turns out to be too complex to follow.
        """
        if self._ended:
            raise GrammarError("The answer has ended, so no token may follow; begin with a new matcher.")
        if self._is_full:
            mask = np.zeros(self._tokenizer.n_vocab, np.bool_)
            mask[list(self._tokenizer.eog_ids)] = True
            return mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._expect_sound()
        return np.unpackbits(bits, count=self._tokenizer.n_vocab, bitorder="little").view(np.bool_)

    def advance(self, token_id: int) -> None:
        """The next token is this. Raises GrammarError for one that the mask does not have; nothing is then changed."""
        ends = token_id in self._tokenizer.eog_ids
        fits = not self._ended and (ends if self._is_full else self._matcher.try_consume_tokens([token_id]) == 1)
        if not fits:
            self._expect_sound()
            raise GrammarError(f"Token {token_id} cannot follow by the grammar; choose one that its mask allows.")
        self._ended = ends

    @property
    def is_complete(self) -> bool:
        """Whether the answer so far is a text of the grammar."""
        return self._ended or self._matcher.is_accepting()

    def forced(self) -> list[int]:
        """The tokens that must come next whatever is drawn, often none. An end token is never among them."""
        ahead = self._matcher.deep_copy()
        ids: list[int] = []
        # One at a time, as `mask` would: what follows may be cut into tokens otherwise once the first one stands.
        while not ahead.is_stopped() and (found := ahead.compute_ff_tokens()):
            if found[0] in self._tokenizer.eog_ids or not ahead.consume_token(found[0]):
                break
            ids.append(found[0])
        return ids

    def copy(self) -> Matcher:
        """One that goes on from here by itself."""
        copy = Matcher(self._matcher.deep_copy(), self._tokenizer)
        copy._ended = self._ended
        return copy

    @property
    def _is_full(self) -> bool:
        """Whether nothing but the end can follow: then llguidance follows no further."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _expect_sound(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar cannot be followed ({_reason(self._matcher.get_error())}); simplify it.")


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    # States are 1 to 2 kB each. A row has an item or two for each tool that the name may still become.
    return LLParserLimits(max_lexer_states=50_000, max_items_in_row=16_000, verbose_errors=False)


def checked(source: str, what: str, spaced: str | None = None, trie: LLTokenizer | None = None) -> Grammar:
    """The grammar, if it is one. trie: of the tokenizer whose tokens it names, where it names any."""
    from llguidance import LLMatcher

    _check_size(source, what)
    # Made once for a vocabulary of bytes: llguidance's own validation stops before some of the limits.
    matcher = LLMatcher(trie or _bytes_trie(), source, log_level=0, limits=_limits())
    if matcher.is_error():
        raise GrammarError(f"{what} cannot be a grammar ({_reason(matcher.get_error())}); correct or simplify it.")
    if spaced is None:
        parts = [{"lark_grammar": 'start: " "? @body'}, {"name": "body", "lark_grammar": source}]
        spaced = json.dumps({"grammars": parts})
    return Grammar(source, spaced, tuple(dict.fromkeys(map(_reason, matcher.get_grammar_warnings()))))


@cache
def _bytes_trie() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _check_size(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise GrammarError(f"{what} is {type(text).__name__}; expected a text.")
    if len(text) > MAX_CHARACTERS:
        raise GrammarError(f"{what} has {len(text)} characters; expected at most {MAX_CHARACTERS}.")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise GrammarError(f"{what} has characters that no text can hold (NUL, or half of a pair); take them out.")


def _reason(message: str) -> str:
    """What llguidance says, on one line, without the place that it quotes: the grammar's source is ours."""
    line = " ".join(re.split(r"\n\s*\d+ \| ", message.replace("<non-verbose/>", ""))[0].split())
    line = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", line)
    if line.startswith("panic"):
        return "it is too large" if "symbols.len()" in line else "llguidance failed on it"
    return line.rpartition("error: ")[2].strip().rstrip(".")[:200]
