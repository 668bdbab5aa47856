"""The Berkeley Function Calling Leaderboard, version 4 (Patil et al., ICML 2025; Apache-2.0): its single-turn Python
categories simple, multiple, parallel, parallel_multiple and irrelevance.

Out of scope are the multi-turn categories: their calls act on simulated programs whose state is then compared.

BFCL's checker has rules of its own about which arguments may be left out. They are settled here, so that an `Item`
means what it says: an argument that the tool requires must be there though "" be among its values, one that the tool
does not have must not (two answers have such), and an object, which BFCL writes with a list of right values for each of
its keys, becomes all objects that are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Final

from ingle.errors import DataError, UsageError
from ingle.evaluate.calls.item import Expected, Item
from ingle.evaluate.calls.sources.files import list_of, object_of, read_lines, text_of
from ingle.evaluate.calls.values import is_absent
from ingle.text.tools import Tool, read_tools

__all__ = ["BFCL", "files", "items"]

#: Names of sources, and what their items are.
BFCL: Final[Mapping[str, str]] = {
    "bfcl_simple": "BFCL: one function",
    "bfcl_multiple": "BFCL: one of several functions",
    "bfcl_parallel": "BFCL: several calls",
    "bfcl_parallel_multiple": "BFCL: several calls of several functions",
    "bfcl_irrelevance": "BFCL: no function fits",
}
_MAX_OBJECTS = 4096  # right ones of one argument
_ABSENT: Final = object()


def files(source: str) -> tuple[str, ...]:
    """The file of a source's requests and, where functions fit, that of the right calls, from the data folder on."""
    category = source.removeprefix("bfcl_")
    name = f"BFCL_v4_{'simple_python' if category == 'simple' else category}.json"
    return (f"bfcl/{name}",) if category == "irrelevance" else (f"bfcl/{name}", f"bfcl/possible_answer/{name}")


def items(source: str, folder: Path) -> list[Item]:
    """The items of one category. folder: has bfcl/BFCL_v4_*.json and bfcl/possible_answer/.

    Raises UsageError for a category that is not among `BFCL`, DataError for files that are missing or not sound.
    """
    if source not in BFCL:
        raise UsageError(f"{source!r} is no known part of BFCL; expected one of {', '.join(BFCL)}.")
    path, *answered = (folder / file for file in files(source))
    answers: dict[str, object] = {}
    for answer_path in answered:
        answers = {text_of(r.get("id"), answer_path.name): r.get("ground_truth") for r in read_lines(answer_path)}
    found = []
    for record in read_lines(path):
        id = text_of(record.get("id"), path.name)
        where = f"{path.name}, {id}"
        tools = _tools(record.get("function"), where)
        expected: tuple[Expected, ...] = ()
        if answered:
            if id not in answers:
                raise DataError(f"{where} has no answer in possible_answer/{path.name}; get both files anew.")
            expected = tuple(_calls(answers[id], {tool.name: tool for tool in tools}, where))
        found.append(Item(id, source, _messages(record.get("question"), where), tools, expected))
    if not found:
        raise DataError(f"{path} has no items; expected a JSON object on each line.")
    return found


def _messages(value: object, where: str) -> tuple[Mapping[str, Any], ...]:
    turns = list_of(value, where)
    if len(turns) != 1:
        raise DataError(f"{where} has {len(turns)} turns; expected one, for the multi-turn categories are not read.")
    messages = [object_of(message, where) for message in list_of(turns[0], where)]
    return tuple(
        {"role": text_of(message.get("role"), where), "content": text_of(message.get("content"), where)}
        for message in messages
    )


def _tools(value: object, where: str) -> tuple[Tool, ...]:
    try:
        return tuple(read_tools(value, where))
    except UsageError as error:
        raise DataError(str(error)) from None


def _calls(value: object, tools: Mapping[str, Tool], where: str) -> Iterator[Expected]:
    for entry in list_of(value, where):
        call = object_of(entry, where)
        if len(call) != 1 or not call.keys() <= tools.keys():
            raise DataError(f"{where} expects a call of {', '.join(call)}; expected one of its tools.")
        ((name, arguments),) = call.items()
        schema = tools[name].parameters
        required = list_of(schema.get("required", []), where)
        yield Expected(
            name,
            {
                key: tuple(_values(list_of(values, where), key in required, where))
                for key, values in object_of(arguments, where).items()
                if key in schema["properties"]
            },
        )


def _values(values: list[Any], required: bool, where: str) -> Iterator[Any]:
    """The right values of an argument, objects as such; for a required one without those that say it may be absent."""
    if required and not all(is_absent(value) for value in values):
        values = [value for value in values if not is_absent(value)]
    for value in values:
        yield from _objects(value, where)


def _objects(value: object, where: str) -> list[Any]:
    """`value` with its objects, at the top or in a list, as BFCL means them: one for each choice of their values."""
    if isinstance(value, dict):
        choices = [
            [choice for right in list_of(rights, where) for choice in ((_ABSENT, "") if right == "" else (right,))]
            for rights in value.values()
        ]
        _check_number(prod(map(len, choices)), where)
        return [
            {key: part for key, part in zip(value, chosen, strict=True) if part is not _ABSENT}
            for chosen in product(*choices)
        ]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        parts = [_objects(item, where) for item in value]
        _check_number(prod(map(len, parts)), where)
        return [list(chosen) for chosen in product(*parts)]
    return [value]


def _check_number(n: int, where: str) -> None:
    if n > _MAX_OBJECTS:
        raise DataError(f"{where} has an argument with {n} right objects; expected at most {_MAX_OBJECTS}.")
