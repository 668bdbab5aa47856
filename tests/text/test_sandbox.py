"""Templates from strangers: refused before they take all the time or all the memory."""

from __future__ import annotations

import tracemalloc

import pytest

from ingle.errors import TemplateError
from ingle.text import budget
from ingle.text.sandbox import CompiledTemplate


def render(source: str, **variables: object) -> str:
    return CompiledTemplate(source).render({"messages": [{"content": "hi"}], **variables}, size=2)


def doubling(expression: str, first: str = "'x'") -> str:
    return f"{{% set n = namespace(s={first}) %}}{{% for i in range(70) %}}{{% set n.s = {expression} %}}{{% endfor %}}"


NESTED = doubling("[n.s, n.s]", "[1]")  # 2^70 lists in a few hundred bytes


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% for i in range(99999999999) %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
        doubling("n.s ~ n.s"),
        doubling("n.s + n.s"),
        doubling("n.s * 2"),
        doubling("[n.s, n.s] | join"),
        doubling("''.join([n.s, n.s])"),
        doubling("n.s.replace('x', 'xx')"),
        doubling("n.s | replace('x', 'xx')"),
        doubling("'%s%s' % (n.s, n.s)"),
        doubling("'{}{}'.format(n.s, n.s)"),
        doubling("n.s + n.s", "[1]"),
        doubling("n.s * n.s", "99"),
        "{% set n = namespace(s='x') %}{% for i in range(70) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
        NESTED + "{{ n.s }}",
        NESTED + "{{ n.s | string | length }}",
        NESTED + "{{ n.s | upper | length }}",
        NESTED + "{{ n.s | tojson | length }}",
        NESTED + "{{ (n.s ~ '') | length }}",
        NESTED + "{{ ('%s' % n.s) | length }}",
        NESTED + "{{ '{}'.format(n.s) | length }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ [1] * 10 ** 10 }}",
        "{{ 10 ** 9999999 }}",
        "{{ 'x'.ljust(10 ** 9) }}",
        "{{ ('\t' * 99999).expandtabs(99999) }}",
        "{{ 'x'.translate({120: 'y' * 99999}) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ 'x' | center(999999999) }}",
        "{{ ('\n' * 99999) | indent(99999) }}",
        "{{ [1] | tojson(indent=999999999) }}",
        "{{ lipsum(n=999999) }}",
        "{{ range(99999) | join('y' * 999) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.x }}",
        "{% include 'file' %}",
        "{% for x in %}",
        "{{ 1 / 0 }}",
        "{{ messages[0].nothing.more }}",
        "{{ raise_exception('no') }}",
        "{" * 5 + "%",
        "{{ " + "(" * 5000,
        "{{ " + "[" * 300 + "]" * 300 + " }}",
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(budget, "MAX_SECONDS", 0.5)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError) as caught:
            render(source)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_too_long_a_template() -> None:
    with pytest.raises(TemplateError, match="at most 1048576 characters"):
        CompiledTemplate("x" * (1 << 21))


def test_a_conversation_may_be_long() -> None:
    messages = [{"content": "x" * 100_000}] * 50
    template = CompiledTemplate("{% for m in messages %}{{ m.content | trim ~ '\n' }}{% endfor %}")
    assert len(template.render({"messages": messages}, 5_000_000)) == 50 * 100_001


def test_the_template_s_own_reason_is_told() -> None:
    with pytest.raises(TemplateError, match=r"refused the conversation: Roles must alternate\."):
        render("{{ raise_exception('Roles must\n alternate.') }}")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'a' ~ 1 ~ none", "a1None"),
        ("[{'x': 1}, {'x': 2}] | join('-', attribute='x')", "1-2"),
        ("[1, 2] | join", "12"),
        ("'aXbX' | replace('X', '-', 1)", "a-bX"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("'%02d %s' % (3, 'x')", "03 x"),
        ("'{:.2f} {}'.format(2.5, 'x')", "2.50 x"),
        ("' x ' | trim", "x"),
        ("2 ** 10 * 3 % 7", str(2**10 * 3 % 7)),
        ("[1] + [2]", "[1, 2]"),
        ("{'b': 1, 'a': 2} | dictsort", "[('a', 2), ('b', 1)]"),
        ("messages | map(attribute='content') | list", "['hi']"),
        ("messages | selectattr('content', 'equalto', 'hi') | list | length", "1"),
        ("undefined_name", ""),
        ("none", "None"),
        ("'abc'[::-1]", "cba"),
        ("'a,b'.split(',') | last", "b"),
        ("{'a': 1}.items() | list", "[('a', 1)]"),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("'x' is string and messages is sequence", "True"),
    ],
)
def test_ordinary_expressions_mean_what_jinja_says(expression: str, expected: str) -> None:
    assert render("{{ " + expression + " }}") == expected


def test_loops_see_their_neighbours() -> None:
    source = (
        "{% for i in [1, 2, 3, 4] if i % 2 == 0 %}{{ loop.index }}{{ i }}{{ loop.last }} {% else %}none{% endfor %}"
    )
    assert render(source) == "12False 24True "
