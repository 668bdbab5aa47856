"""How a family of models writes its calls, as data: a few strings around a name and its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingle.text.tools import ToolCall

__all__ = ["Form", "Items", "Opening", "items_of"]

#: Text as its characters, and control tokens between them, each as its whole text.
Items = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """Markup before and after calls. Either may be "": such calls begin with the answer, or end with their JSON."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Form:
    """Calls are `open head NAME middle ARGUMENTS (again NAME middle ARGUMENTS)* tail close`, arguments as JSON.

    A head that ends in a quotation mark has the name as a text of JSON, any other as it is.
    also: other markup that models of the family write too, for a call only where {"name": comes next.
    many: whether one answer may have several calls.
    xml: arguments are no JSON, but <parameter=NAME> lines, as Qwen3-Coder has them.
    skip: markup after a name with something that is not read, up to `middle`.
    fits: matches what a chat template of the family makes of a call named `probe_call`.
    words: what comes before the form in the system message, where a chat template has no place for tools.
    """

    name: str
    open: str
    head: str
    middle: str
    tail: str
    close: str
    again: str
    also: tuple[Opening, ...] = ()
    many: bool = True
    xml: bool = False
    skip: str = ""
    fits: str = ""
    words: str = "To call one, write its name and its arguments as JSON:"

    @property
    def quoted(self) -> bool:
        """Whether the name is a text of JSON."""
        return self.head.endswith('"')

    @property
    def openings(self) -> tuple[Opening, ...]:
        """All markup, what the family's template writes first."""
        return (Opening(self.open, self.close), *self.also)

    @property
    def markup(self) -> str:
        """Everything that may have control tokens in it."""
        return "\n".join(
            [self.head, self.skip, self.middle, self.tail, self.again, *(o.open + o.close for o in self.openings)]
        )

    def begin(self, opening: Opening) -> str:
        """What stands before the first name."""
        return opening.open + (self.head if opening.open and opening.close else self.head.lstrip())

    def end(self, opening: Opening) -> str:
        """What stands behind the last arguments."""
        return self.tail + opening.close if opening.close else self.tail.rstrip()

    def named(self, name: str) -> str:
        """A name and what stands between it and its arguments."""
        return (json.dumps(name, ensure_ascii=False)[1:-1] if self.quoted else name) + self.middle

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The calls as the family's models write them, control tokens as their text; "" for none."""
        if not calls:
            return ""
        first = self.openings[0]
        said = [self.named(call.name) + self.arguments(call.arguments) for call in calls]
        return self.begin(first) + self.again.join(said) + self.end(first)

    def arguments(self, arguments: Mapping[str, Any]) -> str:
        """The arguments of a call as they stand in it."""
        if not self.xml:
            return json.dumps(arguments, ensure_ascii=False)
        return "".join(
            f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n"
            "</parameter>\n"
            for key, value in arguments.items()
        )

    def explained(self) -> str:
        """How to call, for a system message."""
        arguments = "<parameter=...>\n...\n</parameter>\n" if self.xml else "{...}"
        example = f"{self.begin(self.openings[0])}...{self.middle}{arguments}{self.end(self.openings[0])}"
        return f"{self.words}\n{example}"

    def told(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """The tools (as in the OpenAI API) and how to call them, for a system message."""
        listed = "".join(f"{json.dumps(tool.get('function', tool), ensure_ascii=False)}\n" for tool in tools)
        return f"You can call these functions:\n<tools>\n{listed}</tools>\n{self.explained()}"


def items_of(text: str, marks: Iterable[str]) -> Items:
    """The text as characters, those of `marks` that are in it in one piece."""
    found = sorted((mark for mark in marks if mark in text), key=len, reverse=True)
    if not found:
        return tuple(text)
    parts = re.split(f"({'|'.join(map(re.escape, found))})", text)
    return tuple(item for number, part in enumerate(parts) for item in ([part] if number % 2 else part))
