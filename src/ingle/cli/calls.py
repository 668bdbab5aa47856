"""Tools on the command line: read from a file, and an answer's calls printed as JSON, each on a line of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingle.cli.console import Writer, say
from ingle.errors import UsageError
from ingle.files import read_bytes
from ingle.text.tools import Tool, read_tools

if TYPE_CHECKING:
    from ingle.text.calls import CallScanner, Deltas, Family
    from ingle.text.grammar import Grammar

__all__ = ["CallWriter", "calls_record", "grammar_of", "tools_of"]

MAX_BYTES = 1 << 22  # of the file: the tools in it may have 2^20 characters, and people indent


def tools_of(path: Path) -> list[Tool]:
    """The tools in a JSON file: at least one. Raises UsageError for anything else."""
    content = read_bytes(path, MAX_BYTES, UsageError, "expected a JSON file of tools")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{path} is not JSON{where}; expected a list of tools, each with a name.") from None
    tools = read_tools(value, str(path))
    if not tools:
        raise UsageError(f"{path} has no tools; expected a list with at least one.")
    return tools


def grammar_of(tools: list[Tool], request: str | None = None, family: Family | None = None) -> Grammar:
    """What an answer may be: a text, or one call or several. What it leaves open is told on stderr.

    request: text arguments have to be words of it; None = any text. family: how the model writes calls; None = as the
    models made here do, which is enough to see whether the tools can be a grammar.
    """
    from ingle.text.copying import copying
    from ingle.text.grammar import Grammar

    tools = tools if request is None else copying(tools, request)
    if family is not None:
        return family.grammar(tools)
    grammar = Grammar.tool_calls(tools, many=True)
    for warning in grammar.warnings:
        say(f"Calls are not held to a part of the tools' schemas: {warning}.", "dim")
    return grammar


def calls_record(family: Family, token_ids: Sequence[int], tools: Sequence[Tool]) -> dict[str, Any]:
    """The calls in an answer, and what is wrong with others, for its JSON record."""
    found = family.find(token_ids, tools)
    calls = [{"name": call.name, "arguments": call.arguments} for call in found.calls]
    return {"calls": calls, "problems": found.problems}


class CallWriter:
    """An answer of a model with tools, on stdout: text as it comes, calls when it has ended, each on its own line.

    Text behind a call comes after all calls. Broken calls are told on stderr.
    """

    def __init__(self, scanner: CallScanner) -> None:
        self._writer = Writer()
        self._scanner = scanner
        self._calling = False
        self._behind: list[str] = []

    def write(self, text: str, token_id: int | None = None) -> None:
        """The text that a token made certain, and the token."""
        self._take(self._scanner.push(text, token_id))

    def echo(self, prompt: str) -> None:
        """As `Writer.echo`."""
        self._writer.echo(prompt)

    def end(self) -> None:
        """The answer has ended: what is left of it, and a new line."""
        self._take(self._scanner.finish())
        found = self._scanner.found
        for line in [*(call.to_json() for call in found.calls), "".join(self._behind).strip()]:
            if line:
                self._writer.end()
                self._writer.write(line)
        self._writer.end()
        for problem in found.problems:
            say(problem, "dim")

    def _take(self, deltas: Deltas) -> None:
        if self._calling:
            self._behind.append(deltas.text)
        elif deltas.text:
            self._writer.write(deltas.text)
        self._calling = self._calling or bool(deltas.calls)
