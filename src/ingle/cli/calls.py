"""Tools on the command line: read from a file, and an answer's calls printed as JSON, each on a line of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingle.cli.console import Writer, say
from ingle.errors import UsageError
from ingle.files import read_bytes
from ingle.text import StopScanner
from ingle.text.tools import CALL_BEGIN, Tool, find_calls, read_tools

if TYPE_CHECKING:
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


def grammar_of(tools: list[Tool], request: str | None = None) -> Grammar:
    """What an answer may be: a text, or one call or several. What it leaves open is told on stderr.

    request: text arguments have to be words of it; None = any text.
    """
    from ingle.text.copying import copying
    from ingle.text.grammar import Grammar

    tools = tools if request is None else copying(tools, request)
    grammar = Grammar.tool_calls(tools, many=True)
    for warning in grammar.warnings:
        say(f"Calls are not held to a part of the tools' schemas: {warning}.", "dim")
    return grammar


def calls_record(text: str) -> dict[str, Any]:
    """The calls in an answer, and what is wrong with others, for its JSON record."""
    found = find_calls(text)
    calls = [{"name": call.name, "arguments": call.arguments} for call in found.calls]
    return {"calls": calls, "problems": found.problems}


class CallWriter:
    """An answer of a model with tools, on stdout: text as it comes, calls when it has ended, each on its own line.

    Broken calls are told on stderr.
    """

    def __init__(self) -> None:
        self._writer = Writer()
        self._before = StopScanner([CALL_BEGIN])
        self._said: list[str] = []
        self._n_decided = 0  # characters of the answer that stand before any call
        self._begun = False

    def write(self, text: str) -> None:
        self._said.append(text)
        self._show(self._before.push(text)[0])

    def echo(self, prompt: str) -> None:
        """As `Writer.echo`."""
        self._writer.echo(prompt)

    def end(self) -> None:
        """The answer has ended: what is left of it, and a new line."""
        self._show(self._before.finish())
        found = find_calls("".join(self._said)[self._n_decided :])
        for line in [*(call.to_json() for call in found.calls), found.text]:
            if line:
                self._writer.end()
                self._writer.write(line)
        self._writer.end()
        for problem in found.problems:
            say(problem, "dim")

    def _show(self, text: str) -> None:
        """Text before any call. What is only space at the beginning of an answer is left out."""
        self._n_decided += len(text)
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            self._writer.write(text)
