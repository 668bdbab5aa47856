"""The grammar of a family's answers: text, calls with the names of tools and arguments by their schemas, or both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from ingle.errors import GrammarError
from ingle.text.calls.form import Form, Opening, items_of
from ingle.text.calls.xml import PARAMETER_END, is_text
from ingle.text.grammar import Grammar, checked
from ingle.text.json_schema import bounded, check_count, closed, is_open, json_rule, n_properties
from ingle.text.tools import Tool

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["Mode", "calls_grammar"]

Mode = Literal["auto", "required", "none"]

_PLAIN_NAME = re.compile(r"[\w.-]+")
_ANY = "/(?s:.*)/"
#: What makes an object a call where the markup before it does not (as `CallScanner` has it).
_NAMED = r'\s*\[?\s*\{\s*"name"\s*:(?s:.*)'


def calls_grammar(
    form: Form,
    tools: Sequence[Tool],
    mode: Mode = "auto",
    many: bool = False,
    *,
    marks: Mapping[str, int] | None = None,
    trie: LLTokenizer | None = None,
    space: bool = False,
) -> Grammar:
    """What `Family.grammar` says. marks: the markup that is control tokens, with its ids, and the tokenizer's `trie`.

    space: whether the tokenizer puts a space behind a control token, so that one may stand there.
    Raises GrammarError for a schema that cannot be a grammar, and for "required" without tools.
    """
    if mode not in ("auto", "required", "none"):
        raise GrammarError(f"The mode of tool calls is {mode!r}; expected 'auto', 'required' or 'none'.")
    if mode == "required" and not tools:
        raise GrammarError("A call is required, but there are no tools; give at least one.")
    rules = _Rules(form, marks or {}, space)
    if mode == "none" or not tools:
        return checked(f"start: TEXT\nTEXT: {rules.text}\n", "The grammar", trie=trie)
    check_count(sum(n_properties(tool.parameters, f"The tool {tool.name}") for tool in tools), "All tools together")
    schemas = [closed(tool.parameters) for tool in tools]
    lines = rules.tools(list(zip(tools, schemas, strict=True)))
    source, spaced = (rules.source(mode, many, lines, spaced=spaced) for spaced in (False, True))
    try:
        grammar = checked(source, "The grammar of the tools", spaced, trie)
    except GrammarError:
        for tool, schema in zip(tools, schemas, strict=True):
            alone = "\n".join(rules.tools([(tool, schema)]))
            checked(f"start: tool_0\n{alone}", f"The tool {tool.name}", trie=trie)
        raise
    still_open = (
        f"the tool {tool.name} can be given arguments that its schema does not name, for it joins schemas"
        for tool, schema in zip(tools, schemas, strict=True)
        if is_open(schema)
    )
    return replace(grammar, warnings=(*grammar.warnings, *rules.warnings, *still_open))


class _Rules:
    """The rules of a form, in the words of Lark."""

    def __init__(self, form: Form, marks: Mapping[str, int], space: bool) -> None:
        self._form = form
        self._marks = marks
        self._space = '" "? ' if space else ""
        self.warnings: list[str] = []
        self.text = self._text()

    def _text(self) -> str:
        """The terminal of a text in which no call begins."""
        form, never = self._form, []
        for opening in form.openings:
            if any(mark in opening.open for mark in self._marks):
                continue  # a control token is no text
            if not opening.open:
                never.append(_NAMED)
            elif opening.open == form.open:
                closing = [opening.close] if opening.close.startswith("<") else []
                never += [f"(?s:.*){_escaped(markup)}(?s:.*)" for markup in (opening.open, *closing)]
            else:
                never.append(f"(?s:.*){_escaped(opening.open)}{_NAMED}")
        return " & ".join([_ANY, *(f"~/{pattern}/" for pattern in never)])

    def source(self, mode: Mode, many: bool, tools: Iterable[str], *, spaced: bool) -> str:
        """All of it. spaced: also with a space before everything."""
        form = self._form
        openings = [o for o in form.openings if o.open == form.open or self._is_known(o)]
        lines = [
            "start: " + ("calls" if mode == "required" else "TEXT | calls"),
            f"TEXT: {self.text}",
            "calls: " + " | ".join(f"calls_{number}" for number in range(len(openings))),
        ]
        for number, opening in enumerate(openings):
            begin, first = self._begin(form.begin(opening), f"BEGIN_{number}", mode, opening, spaced)
            lines += first
            again = f" ({self.rule(form.again)} tool)*" if many and form.many and opening.open == form.open else ""
            lines.append(f"calls_{number}: {begin} tool{again} {self.rule(form.end(opening))}")
        return "\n".join([*lines, *tools, ""])

    def _is_known(self, opening: Opening) -> bool:
        """Whether markup that looks like a control token is one of this tokenizer."""
        return not opening.open.startswith("<|") or any(mark in opening.open for mark in self._marks)

    def _begin(self, begin: str, name: str, mode: Mode, opening: Opening, spaced: bool) -> tuple[str, list[str]]:
        """The rule of what stands before the first name, with text before that, and the terminals it needs."""
        items = items_of(begin, self._marks)
        n_text = next((number for number, item in enumerate(items) if item in self._marks), len(items))
        rest = self.rule(begin[len("".join(items[:n_text])) :])
        has_text = mode == "auto" and opening.open
        if not n_text:
            return (f"TEXT? {rest}" if has_text else rest), []
        # What comes before a call is a part of its first lexeme: alone, it would be the beginning of a text.
        before = f"({self.text})" if has_text else '" "?' if spaced else ""
        return f"{name} {rest}", [f"{name}: {before} {json.dumps(''.join(items[:n_text]), ensure_ascii=False)}"]

    def rule(self, markup: str) -> str:
        """Markup as tokens and texts."""
        parts, behind = [], False
        for mark, group in groupby(items_of(markup, self._marks), key=lambda item: item in self._marks):
            if mark:
                parts += [f"<[{self._marks[item]}]>" for item in group]
            else:
                parts.append((self._space if behind else "") + json.dumps("".join(group), ensure_ascii=False))
            behind = mark
        return " ".join(parts) + (f" {self._space}" if behind else "")

    def tools(self, tools: Sequence[tuple[Tool, Mapping[str, Any]]]) -> list[str]:
        """The rule `tool`, and those of each."""
        lines = ["tool: " + " | ".join(f"tool_{number}" for number in range(len(tools)))]
        for number, (tool, schema) in enumerate(tools):
            what = f"The tool {tool.name}"
            if not self._form.quoted and not _PLAIN_NAME.fullmatch(tool.name):
                raise GrammarError(
                    f"{what} has a name that calls of this model cannot hold; use letters, digits, _ and -."
                )
            if self._form.xml:
                lines += self._tags(number, tool, schema, what)
            else:
                arguments = json_rule(bounded(schema), what, lenient=True)
                lines.append(f"tool_{number}: {self.rule(self._form.named(tool.name))} {arguments}")
        return lines

    def _tags(self, number: int, tool: Tool, schema: Mapping[str, Any], what: str) -> list[str]:
        """A tool whose arguments are tags: those that its schema names, in that order."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        parts, lines = [], []
        for position, (key, value) in enumerate(properties.items()):
            name = f"tool_{number}_{position}"
            before, behind = (
                json.dumps(tag, ensure_ascii=False) for tag in (f"<parameter={key}>\n", f"\n{PARAMETER_END}\n")
            )
            if is_text(value):  # one lexeme with its end: alone it would take the end for text
                lines += [f"{name}: {before} {name.upper()}", f"{name.upper()}: ({_text_of(value)}) {behind}"]
                if "pattern" in value or "format" in value:
                    self.warnings.append(f"the tool {tool.name} can be given any text as {key}, whatever its form")
            else:
                given = json_rule(bounded({**_schema(value), **definitions}), what, lenient=True)
                lines.append(f"{name}: {before} {given} {behind}")
            parts.append(name if key in required else f"{name}?")
        return [f"tool_{number}: {self.rule(self._form.named(tool.name))} {' '.join(parts)}", *lines]


def _schema(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text_of(schema: Mapping[str, Any]) -> str:
    """The terminal of a text within a tag: one of those that the schema lists, or any of its length."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is not None:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    return f"/(?s:.){{{least},{most}}}/ & ~/(?s:.*){_escaped(PARAMETER_END)}(?s:.*)/"


def _escaped(text: str) -> str:
    """A text as a regular expression between slashes."""
    return re.escape(text).replace("/", "\\/").replace("\n", "\\n").replace("\\ ", " ")
