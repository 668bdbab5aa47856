"""What rendering a chat template may use, and Jinja's operations and filters in forms that keep to it.

Each function here measures its result before it makes it, wherever a result can be much longer than what it comes from.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import do_indent, make_attrgetter
from jinja2.runtime import Undefined
from jinja2.utils import pass_environment

__all__ = ["FILTERS", "MAX_CHARACTERS", "check_call", "check_operator", "check_size", "measured", "spend", "with_text"]

MAX_SECONDS = 5.0
MAX_STEPS = 1_000_000  # iterations and macro calls; a conversation of a thousand messages needs some ten thousand
MAX_CHARACTERS = 1 << 20  # of output or of any value on the way, beyond what the messages themselves have
MAX_NUMBER = 100_000  # as an argument of a method, such as 'x'.ljust(n); Jinja has the same limit for range()

_UNWANTED_METHODS = frozenset(("expandtabs", "format_map", "translate"))
_WIDE_FIELD = re.compile(r"\d{4}|\*|\{[^}]*\{")  # in a format string: a width of thousands, or one from an argument


class _Budget:
    """What one rendering may still use."""

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS


_budget: ContextVar[_Budget] = ContextVar("budget of the rendering in progress")


@contextmanager
def spend(characters: int) -> Iterator[None]:
    """A fresh budget for the rendering inside: its steps, its seconds, and texts of at most `characters`."""
    token = _budget.set(_Budget(characters))
    try:
        yield
    finally:
        _budget.reset(token)


def check_size(length: int) -> None:
    """Refuse a text or list of this length if it is too long."""
    if length > _budget.get().characters:
        raise SecurityError("it makes too much text")


def measured(value: object) -> object:
    """What `{{ }}` writes; an undefined value stays what it is, and then writes nothing."""
    return value if value is None or isinstance(value, Undefined) else _text(value)


def with_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that makes text of what it gets, with that text measured."""

    @wraps(function)  # it also keeps the marks that Jinja puts on filters
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return function(*(_text(a) if isinstance(a, (list, tuple, dict)) else a for a in args), **kwargs)

    return filtered


def check_call(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse calls of methods of texts and lists whose results can be much longer than their arguments."""
    method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(owner, (str, bytes, list, tuple, dict, int)):
        return
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"it uses the number {value}")
    if name in _UNWANTED_METHODS or (name == "format" and isinstance(owner, str) and _WIDE_FIELD.search(owner)):
        raise SecurityError(f"it uses {name}() in a way that chat templates have no use for")
    if name == "format":
        check_size(sum(len(_text(value)) for value in (*args, *kwargs.values())))
    elif name == "join" and args and isinstance(owner, str):
        values = list(args[0])
        check_size(sum(map(len, map(_text, values))) + len(owner) * len(values))
    elif name == "replace" and len(args) >= 2 and isinstance(owner, str):
        _replace(owner, str(args[0]), str(args[1]))


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation that makes too long a text, too long a list or too large a number (counted in bits)."""
    length = 0
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        length = left.bit_length() * abs(right)
    elif operator == "*":
        if isinstance(left, int) and isinstance(right, int):
            length = left.bit_length() + right.bit_length()
        elif isinstance(left, int) or isinstance(right, int):
            sequence, times = (right, left) if isinstance(left, int) else (left, right)
            length = len(sequence) * times if isinstance(sequence, (str, bytes, list, tuple)) else 0
    elif operator == "%" and isinstance(left, str):
        if _WIDE_FIELD.search(left):
            raise SecurityError("it writes fields thousands of characters wide")
        length = len(left) + len(_text(right))
    elif (
        operator == "+" and isinstance(left, (str, bytes, list, tuple)) and isinstance(right, (str, bytes, list, tuple))
    ):
        length = len(left) + len(right)
    check_size(length)


def _text(value: object) -> str:
    """`str(value)`, once it is known not to be too long: lists in lists write themselves out again and again."""
    if not isinstance(value, str):
        length, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            length += len(item) if isinstance(item, str) else 8
            check_size(length)
            if isinstance(item, Mapping):
                waiting += (*item, *item.values())
            elif isinstance(item, (list, tuple)):
                waiting += item
    text = str(value)
    check_size(len(text))
    return text


def _step(value: object) -> object:
    """Passes `value` through and counts one iteration or call."""
    budget = _budget.get()
    budget.steps -= 1
    if budget.steps < 0 or time.monotonic() > budget.deadline:
        raise SecurityError("it loops for too long")
    return value


@pass_environment
def _join(
    environment: Environment, values: Iterable[object], separator: object = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    between, texts, length = _text(separator), [], 0
    for value in values:
        texts.append(_text(value))
        length += len(texts[-1]) + len(between)
        check_size(length)
    return between.join(texts)


def _concat(values: list[object]) -> str:
    texts = list(map(_text, values))
    check_size(sum(map(len, texts)))
    return "".join(texts)


def _replace(text: object, old: str, new: str, count: int | None = None) -> str:
    text = _text(text)
    found = text.count(old) if old else len(text) + 1
    check_size(len(text) + found * max(len(new) - len(old), 0))
    return text.replace(old, new, -1 if count is None else count)


def _indent(text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = _text(text)
    check_size(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return str(do_indent(text, width, first, blank))


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As Hugging Face does: nothing escaped for HTML, no letters as escapes unless asked for."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError(f"it asks for an indent of {indent}")
    _text(value)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
    check_size(len(text))
    return text


#: Filters in place of Jinja's, and two that the sandbox puts into templates itself.
FILTERS: dict[str, Callable[..., Any]] = {
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "tojson": _to_json,
    "ingle_concat": _concat,
    "ingle_step": _step,
}
