"""Calls in an answer while it is being made: what is text and what is a call, as soon as it is certain.

The scanner is a small machine that is given one character, or one control token of the family's markup, at a time; so
what it finds cannot depend on how an answer was cut. Where markup is a control token only that token counts: its
spelling in an answer's text is text. A person's words are never given to it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ingle.text.calls.form import Form, Items, Opening, items_of
from ingle.text.calls.reader import SPACE, BrokenCallError, Machine, read_value, spaceless
from ingle.text.calls.strict import decoded, excerpt, well_formed
from ingle.text.calls.xml import read_parameters
from ingle.text.tools import MAX_NAME, FoundCalls, Tool, ToolCall

__all__ = ["CallDelta", "CallScanner", "Deltas"]


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call. index: which call of the answer, from 0. name: with a call's first delta, else None.

    arguments: more of the text of its arguments, which is JSON in the end.
    """

    index: int
    name: str | None
    arguments: str


class Deltas(NamedTuple):
    """What is newly certain: text outside of calls, and parts of calls."""

    text: str
    calls: tuple[CallDelta, ...]


@dataclass(slots=True)
class _Call:
    """A call while it is being read. arguments: None until all of it has been read and is sound."""

    name: str
    arguments: dict[str, Any] | None = None
    whole: bool = False
    told: bool = False
    new: list[str] = field(default_factory=list)


class CallScanner:
    """Follows one answer. Text comes without the space at its beginning and end; joined, it is `found.text`."""

    def __init__(self, form: Form, marks: Mapping[int, str] | None = None, tools: Sequence[Tool] = ()) -> None:
        """marks: the control tokens of the form's markup, by id. tools: for the types of arguments where a form has
        them all as text."""
        self._form = form
        self._marks = dict(marks or {})
        self._tools = {tool.name: tool for tool in tools}
        self._openings = [(self._items(opening.open), opening) for opening in form.openings if opening.open]
        self._bare = next((opening for opening in form.openings if not opening.open), None)
        self._pending: deque[str | None] = deque()
        self._record: list[str | None] | None = None  # all that was read of the section at hand
        self._calls: list[_Call] = []
        self._problems: list[str] = []
        self._said: list[str] = []  # all text
        self._new_text: list[str] = []
        self._space: list[str] = []  # held back until more text comes
        self._begun_text = False
        self._fresh = True  # whether a call without markup may begin here
        self._finished = False
        self._machine = self._outside()
        next(self._machine)

    def push(self, text: str, token_id: int | None = None) -> Deltas:
        """More of the answer: the text that a token made certain, and the token itself.

        A control token stands behind the text that comes with it. Never raises.
        """
        self._pending.extend(text)
        if token_id is not None and token_id in self._marks:
            self._pending.append(self._marks[token_id])
        return self._read()

    def finish(self) -> Deltas:
        """The answer has ended: what was held back. A call that is cut off stays as it is, and is a problem."""
        if self._finished:
            return Deltas("", ())
        self._finished = True
        self._pending.append(None)
        return self._read()

    @property
    def found(self) -> FoundCalls:
        """What has been found so far; all of it after `finish`."""
        calls = [
            ToolCall(call.name, call.arguments) for call in self._calls if call.whole and call.arguments is not None
        ]
        return FoundCalls(calls, "".join(self._said), list(self._problems))

    def _read(self) -> Deltas:
        while self._pending:
            item = self._pending.popleft()
            if self._record is not None:
                self._record.append(item)
            self._machine.send(item)
        text = "".join(self._new_text)
        self._new_text = []
        self._said.append(text)
        deltas = []
        for index, call in enumerate(self._calls):
            if call.new or not call.told:
                deltas.append(CallDelta(index, None if call.told else call.name, "".join(call.new)))
                call.told = True
                call.new.clear()  # and no new list: what reads the arguments holds this one
        return Deltas(text, tuple(deltas))

    def _items(self, markup: str) -> Items:
        return items_of(markup, self._marks.values())

    def _say(self, items: Iterable[str | None]) -> None:
        """Text outside of calls; control tokens are none."""
        for item in items:
            if item is None or len(item) > 1:
                continue
            if item.isspace() or (item == ";" and self._fresh and self._calls):  # Llama parts its calls so
                self._space.append(item)
                continue
            if self._begun_text:
                self._new_text += self._space
            self._space = []
            self._new_text.append(item)
            self._begun_text, self._fresh = True, False

    def _back(self, items: Sequence[str | None]) -> None:
        """Read these again, before all else."""
        self._pending.extendleft(reversed(items))
        if self._record is not None:
            del self._record[len(self._record) - len(items) :]

    def _outside(self) -> Machine[None]:
        held: list[str | None] = []
        while True:
            item = yield
            if item is None:
                self._say(held)
                held = []
            elif self._bare is not None and self._fresh and not held and item in ("{", "["):
                self._back([item])
                yield from self._perhaps(self._bare, ())
            else:
                held.append(item)
                for open_, opening in self._openings:
                    if tuple(held[-len(open_) :]) == open_:
                        self._say(held[: -len(open_)])
                        held = []
                        if opening.open == self._form.open:
                            yield from self._section(opening, open_)
                        else:
                            yield from self._perhaps(opening, open_)
                        break
                else:
                    keep = self._beginning(held)
                    self._say(held[: len(held) - keep])
                    held = held[len(held) - keep :]

    def _beginning(self, held: Sequence[str | None]) -> int:
        """Length of the longest end of `held` that markup begins with."""
        for length in range(len(held), 0, -1):
            end = tuple(held[-length:])
            if any(open_[:length] == end for open_, _ in self._openings):
                return length
        return 0

    def _perhaps(self, opening: Opening, opened: Items) -> Machine[None]:
        """A section if {"name": comes next; otherwise all of it is text."""
        seen: list[str | None] = []
        wanted = '{"name":'
        position = 0
        while position < len(wanted):
            item = yield
            seen.append(item)
            if item == wanted[position]:
                position += 1
            elif not (item in SPACE and position in (0, 1, 7)) and not (item == "[" and seen.count("[") == 1):
                break
        self._back(seen)
        if position == len(wanted):
            yield from self._section(opening, opened, soft=True)
        else:
            self._say(opened)
            self._fresh = False

    def _section(self, opening: Opening, opened: Items, soft: bool = False) -> Machine[None]:
        """Calls behind markup, up to the markup that closes them. soft: it is text if it is no call after all."""
        record: list[str | None] = []
        self._record = record
        n_calls = len(self._calls)
        try:
            yield from self._read_calls(opening, soft)
            self._record = None
            for call in self._calls[n_calls:]:
                call.whole = True
            self._fresh = True
        except BrokenCallError as broken:
            self._record = None
            if soft and len(self._calls) == n_calls:
                self._say(opened)
                self._fresh = False
                self._back(record)
            else:
                yield from self._skip(self._items(opening.close), record, str(broken))

    def _skip(self, close: Items, seen: list[str | None], reason: str) -> Machine[None]:
        """A broken call: read on behind the markup that closes it, which may already have been read."""
        cut = seen[-1:] == [None]
        inside = seen[:-1] if cut else seen
        rest: list[str | None] = [None] if cut else []
        if close:
            n_close = len(close)
            at = next((i for i in range(len(inside) - n_close + 1) if tuple(inside[i : i + n_close]) == close), -1)
            while at < 0 and not cut:
                item = yield
                if item is None:
                    cut, rest = True, [None]
                else:
                    inside.append(item)
                    if tuple(inside[-n_close:]) == close:
                        at = len(inside) - n_close
            if at < 0:
                reason = "has no end"
            else:
                rest = [*inside[at + n_close :], *rest]
                inside = inside[:at]
        elif cut:
            reason = "has no end"
        self._problems.append(f"A call {reason}: {excerpt(''.join(item or '' for item in inside))}")
        self._back(rest)

    def _read_calls(self, opening: Opening, soft: bool) -> Machine[None]:
        form = self._form
        item = yield from spaceless()
        if item == "[" and form.quoted:
            while True:
                item = yield from spaceless()
                if item != "{":
                    raise BrokenCallError("has no name" if item == "]" else "is not JSON")
                yield from self._object(soft)
                item = yield from spaceless()
                if item == "]":
                    break
                if item != ",":
                    raise BrokenCallError("is not JSON")
                self._calls[-1].whole = True
        elif item == "{" and form.quoted:
            yield from self._object(soft)
        elif form.xml:
            yield from self._function(item)
        elif not form.quoted:
            yield from self._named(item)
            return
        else:
            raise BrokenCallError("is not JSON")
        for number, wanted in enumerate(self._items(opening.close)):
            item = (yield) if number else (yield from spaceless())
            if item != wanted:
                raise BrokenCallError("is not JSON alone")

    def _object(self, soft: bool) -> Machine[None]:
        """An object with name and arguments in any order, behind its first brace."""
        name: Any = None
        call: _Call | None = None
        raw: str | None = None
        item = yield from spaceless()
        while item != "}":
            if item != '"':
                raise BrokenCallError("is not JSON")
            key = _value_of((yield from read_value(item, self._back)))
            if (yield from spaceless()) != ":":
                raise BrokenCallError("is not JSON")
            item = yield from spaceless()
            if key in ("arguments", "parameters") and raw is None:
                if isinstance(name, str) and name:
                    call = self._begun(name)
                raw = yield from read_value(item, self._back, call.new if call is not None and item == "{" else None)
            else:
                value = _value_of((yield from read_value(item, self._back)))
                name = value if key == "name" and name is None else name
            item = yield from spaceless()
            if item == ",":
                item = yield from spaceless()
                if item == "}":
                    raise BrokenCallError("is not JSON")
            elif item != "}":
                raise BrokenCallError("is not JSON")
        if not isinstance(name, str) or not name or (soft and raw is None):
            raise BrokenCallError("has no name")
        value = _value_of(raw or "{}")
        streamed = call is not None and (raw or "").startswith("{")
        call = call or self._begun(name)
        call.arguments = _arguments(value)
        if not streamed:
            call.new.append(json.dumps(call.arguments, ensure_ascii=False))

    def _named(self, item: str | None) -> Machine[None]:
        """A name as it is, its arguments, and perhaps more of both."""
        form = self._form
        middle, again, end = self._items(form.middle), self._items(form.again), self._items(form.end(form.openings[0]))
        while True:
            name: list[str] = []
            while True:
                if item is None:
                    raise BrokenCallError("has no end")
                name.append(item)
                if tuple(name[-len(middle) :]) == middle:
                    break
                if len(name) > MAX_NAME + 64:
                    raise BrokenCallError("has no name")
                item = yield
            said = "".join(name[: -len(middle)])
            said = (said.partition(form.skip)[0] if form.skip else said).strip()
            if not said or not said.isprintable():
                raise BrokenCallError("has no name")
            item = yield from spaceless()
            if item != "{":
                raise BrokenCallError("has arguments that are no object")
            call = self._begun(said)
            call.arguments = _arguments(_value_of((yield from read_value(item, self._back, call.new))))
            if not end or again[: len(end)] == end:  # then what comes again is a section of its own
                again = end
            if not end or (yield from self._either(again, end)) == end:
                return
            call.whole = True
            item = yield

    def _either(self, one: Items, other: Items) -> Machine[Items]:
        """Which of the two comes next."""
        read: Items = ()
        while read not in (one, other):
            item = yield
            read += (item or "",)
            if read not in (one[: len(read)], other[: len(read)]):
                raise BrokenCallError("is not JSON alone")
        return read

    def _function(self, item: str | None) -> Machine[None]:
        """A function with its parameters as tags."""
        for wanted in "<function=":
            if item != wanted:
                raise BrokenCallError("is not a function")
            item = yield
        name: list[str] = []
        while item != ">":
            if item is None or len(item) > 1 or len(name) > MAX_NAME:
                raise BrokenCallError("has no name")
            name.append(item)
            item = yield
        said = "".join(name).strip()
        if not said:
            raise BrokenCallError("has no name")
        call = self._begun(said)
        tool = self._tools.get(said)
        call.arguments = yield from read_parameters(tool.parameters if tool else {}, call.new)

    def _begun(self, name: str) -> _Call:
        call = _Call(well_formed(name))
        self._calls.append(call)
        return call


def _value_of(raw: str) -> Any:
    try:
        return decoded(raw)
    except ValueError:
        raise BrokenCallError("is not JSON") from None


def _arguments(value: Any) -> dict[str, Any]:
    """The arguments of a call: an object, a text that is one as JSON, or null for none."""
    if isinstance(value, str):
        try:
            value = decoded(value)
        except ValueError:
            raise BrokenCallError("has arguments that are not JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BrokenCallError("has arguments that are no object")
    return value
