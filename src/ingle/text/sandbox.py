"""Run a chat template that came with a model file: code from a stranger, in Jinja's sandbox and within a budget.

Jinja's sandbox keeps a template from reaching anything but its variables. It does not keep it from running or growing
without end, so here every iteration and macro call is counted against a limit and a clock, and every operation that can
make a long text out of short ones is measured. What is left to a hostile template is to waste a few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ingle.errors import TemplateError
from ingle.text.budget import (
    FILTERS,
    MAX_CHARACTERS,
    check_call,
    check_operator,
    check_size,
    measured,
    spend,
    with_text,
)

__all__ = ["CompiledTemplate"]

#: Filters that templates for chats have no use for, and that make long texts out of nothing.
_UNWANTED_FILTERS = "batch center format pprint random slice urlize wordwrap xmlattr"
#: Filters that turn whatever they get into text first.
_TEXT_FILTERS = "capitalize e escape forceescape lower string striptags title trim truncate upper urlencode wordcount"


class CompiledTemplate:
    """A template ready to render, any number of times and from any thread. Raises TemplateError if it is not sound."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_CHARACTERS:
            raise TemplateError(
                f"Expected a chat template of at most {MAX_CHARACTERS} characters, found {len(source)}."
            )
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except (jinja2.TemplateError, SyntaxError, RecursionError, ValueError, OverflowError, MemoryError) as error:
            raise TemplateError(f"The chat template is not sound ({_sentence(error)}); give another one.") from None

    def render(self, variables: Mapping[str, object], size: int) -> str:
        """The text. `size` is how many characters the conversation has, which the text may repeat a few times.

        Raises TemplateError if the template refuses, fails, or uses more than its budget.
        """
        parts: list[str] = []
        length = 0
        with spend(MAX_CHARACTERS + 4 * size):
            try:
                for part in self._template.generate(variables):
                    length += len(part)
                    check_size(length)
                    parts.append(part)
            except SecurityError as error:
                raise TemplateError(f"The chat template was stopped: {_sentence(error)}; give another one.") from None
            except jinja2.TemplateError as error:
                raise TemplateError(f"The chat template refused the conversation: {_sentence(error)}.") from None
            except Exception as error:  # a template can run into any error that its expressions can
                raise TemplateError(f"The chat template failed on this conversation: {_sentence(error)}.") from None
        return "".join(parts)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    # The names are Jinja's: they cannot clash with keywords that a template passes on.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        check_call(__obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (str, list)):
            check_size(len(result))
        return result

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Counted().visit(source), *args, **kwargs)


class _Counted(NodeTransformer):
    """Rewrites a parsed template so that loops, macro calls and `~` go through the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, _tick(node.lineno))
        if node.test is not None:  # it runs for every item, also where the body does not
            step = _filter("ingle_step", nodes.Const(True), node.lineno)
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, _tick(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter("ingle_concat", nodes.List(node.nodes, lineno=node.lineno), node.lineno)


def _filter(name: str, value: nodes.Expr, lineno: int) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=lineno)


def _tick(lineno: int) -> nodes.Output:
    return nodes.Output([_filter("ingle_step", nodes.Const(""), lineno)], lineno=lineno)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for training; in rendering it does nothing."""

    tags = {"generation"}  # noqa: RUF012  # declared so by Jinja

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _environment() -> _Sandbox:
    # Not optimized: Jinja would compute constant expressions while it compiles, outside the budget.
    sandbox = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _Generation],
        optimized=False,
        finalize=measured,
        cache_size=0,
    )
    for name in _UNWANTED_FILTERS.split():
        del sandbox.filters[name]
    sandbox.filters |= {name: with_text(sandbox.filters[name]) for name in _TEXT_FILTERS.split()} | FILTERS
    del sandbox.globals["lipsum"]
    sandbox.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return sandbox


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


_ENVIRONMENT = _environment()
