"""A family's form together with a model's tokenizer: grammars, and what an answer's tokens say."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ingle.errors import GrammarError
from ingle.text.calls.form import Form
from ingle.text.calls.scanner import CallScanner
from ingle.text.stream import TextStream
from ingle.text.tools import FoundCalls, Tool, ToolCall

if TYPE_CHECKING:
    from ingle.text.calls.lark import Mode
    from ingle.text.grammar import Grammar
    from ingle.text.tokenizer import Tokenizer

__all__ = ["Family", "new_id"]

_LETTERS = string.ascii_letters + string.digits


def new_id() -> str:
    """A new id for a call: nine letters or digits, which is what Mistral's templates take and others do not mind."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


class Family:
    """How one model writes calls."""

    def __init__(self, form: Form, tokenizer: Tokenizer) -> None:
        self.form = form
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        """The family's name, for people."""
        return self.form.name

    @cached_property
    def marks(self) -> Mapping[str, int]:
        """The family's markup that is control tokens of this tokenizer; all other markup is text."""
        markup = self.form.markup
        return {text: i for text, i in self._tokenizer.control_tokens.items() if len(text) > 1 and text in markup}

    def grammar(
        self, tools: Sequence[Tool], mode: Mode = "auto", many: bool = True, *, only: str | None = None
    ) -> Grammar:
        """What an answer of a model with these tools may be.

        "auto": a text without calls, and then perhaps one or (`many`) several, with which the answer ends.
        "required": calls alone. "none": a text. `only`: calls of the tool with this name alone. Names are those of
        tools, and arguments are by their schemas; other arguments than a schema has are not allowed, unless it says so
        itself. What cannot be enforced is left to the model, and told in `warnings`. Where the family's markup is
        control tokens, the grammar is for this model's tokenizer.
        Raises GrammarError for a schema that cannot be a grammar, "required" without tools, and an unknown name.
        """
        from ingle.text.calls.lark import calls_grammar
        from ingle.text.trie import trie_of

        if only is not None:
            tools = [tool for tool in tools if tool.name == only]
            if not tools:
                raise GrammarError(f"A call of {only!r} is asked for, and no tool has that name; give one that has.")
        trie = trie_of(self._tokenizer) if self.marks else None
        space = self._tokenizer.space_prefix
        return calls_grammar(self.form, tools, mode, many, marks=self.marks, trie=trie, space=space)

    def scanner(self, tools: Sequence[Tool] = ()) -> CallScanner:
        """Follows one answer as it comes. tools: for the types of arguments, where the family has them as text."""
        return CallScanner(self.form, {i: text for text, i in self.marks.items()}, tools)

    def find(self, answer: str | Sequence[int], tools: Sequence[Tool] = ()) -> FoundCalls:
        """The calls in a whole answer, what stands outside of them, and what is wrong with others. Never raises.

        Where the family's markup is control tokens, give the answer's tokens: its text has none of them.
        """
        scanner = self.scanner(tools)
        if isinstance(answer, str):
            scanner.push(answer)
        else:
            stream = TextStream(self._tokenizer)
            for token_id in answer:
                text = stream.finish() if token_id in self.marks.values() else stream.push(token_id)
                scanner.push(text, token_id)
            scanner.push(stream.finish())
        scanner.finish()
        return scanner.found

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model writes them, control tokens as their text; "" for none."""
        return self.form.write(calls)
