"""The scanner of calls: what it finds does not depend on how an answer is cut, and nothing makes it raise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingle.text.calls.form import Form
from ingle.text.calls.gemma import GEMMA
from ingle.text.calls.hermes import HERMES
from ingle.text.calls.llama import LLAMA
from ingle.text.calls.mistral import MISTRAL, MISTRAL_LIST
from ingle.text.calls.phi import PHI, PHI_OBJECT
from ingle.text.calls.qwen_coder import QWEN_CODER
from ingle.text.calls.scanner import CallScanner
from ingle.text.tools import FoundCalls, Tool, ToolCall

LEARNT = Form("learnt", "<calls><call>", "", "<sep>\n", "", "</call></calls>", "</call><call>")
FORMS = (HERMES, LLAMA, MISTRAL, MISTRAL_LIST, PHI, PHI_OBJECT, GEMMA, QWEN_CODER, LEARNT)
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["</tool_call>", "<tool_call>", '"}', "```", "[TOOL_CALLS]", "\\", '{"name": "', "</parameter", "[ARGS]{"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=3)


def pieces(form: Form) -> list[str]:
    """What texts that look like calls are made of."""
    markup = [form.open, form.close, form.middle, form.head, form.tail, form.again, form.skip]
    markup += [text for opening in form.also for text in (opening.open, opening.close)]
    common = ['{"name": "f"', '"arguments": ', '"parameters": {', "{", "}", "[", "]", ",", ":", '"', "\\", " ", "\n"]
    tags = ["<function=f>", "<parameter=a>\n", "</parameter>", "</function>", "null", "1e9", "-", "a", "é", ";", "\0"]
    return [text for text in (*markup, *markup, *common, *tags, form.write([ToolCall("f", {"a": [1, "b"]})])) if text]


def streamed(
    form: Form, parts: Iterable[str | int], marks: Sequence[str] = ()
) -> tuple[FoundCalls, str, dict[int, list[str]]]:
    """What is found, the text of all deltas, and by call its name and the text of its arguments.

    parts: text, and places in `marks` for control tokens.
    """
    scanner = CallScanner(form, dict(enumerate(marks)))
    text, calls = "", {}  # type: str, dict[int, list[str]]
    for deltas in [
        *(scanner.push("", part) if isinstance(part, int) else scanner.push(part) for part in parts),
        scanner.finish(),
    ]:
        text += deltas.text
        for delta in deltas.calls:
            if delta.name is not None:
                assert delta.index == len(calls), "a name comes once, and calls in order"
                calls[delta.index] = [delta.name, ""]
            calls[delta.index][1] += delta.arguments
    assert scanner.finish() == ("", ())
    return scanner.found, text, calls


@forms
def test_calls_are_found_as_they_were_written(form: Form) -> None:
    @settings(deadline=None, max_examples=60)
    @given(CALLS, st.sampled_from(["", "Sure. ", "a < b\n"]))
    def check(calls: list[ToolCall], before: str) -> None:
        calls = calls if form.many or form is LLAMA else calls[:1]
        if form.xml:  # which has no "</parameter>" in texts, and needs types to tell "1" from 1
            calls = [
                ToolCall(
                    c.name, {k: v for k, v in c.arguments.items() if not isinstance(v, str) and "</p" not in str(v)}
                )
                for c in calls
            ]
        before = before if form.open else ""
        found, text, deltas = streamed(form, [before + form.write(calls)])
        assert found == FoundCalls(calls, before.strip(), [])
        assert text == found.text
        assert [(name, json.loads(arguments)) for name, arguments in deltas.values()] == [
            (call.name, call.arguments) for call in calls
        ]

    check()


@forms
def test_cuts_change_nothing_and_nothing_raises(form: Form) -> None:
    markup = [form.middle, *(text for opening in form.openings for text in (opening.open, opening.close))]
    marks = [text for text in dict.fromkeys(markup) if len(text) > 1 and '"' not in text]
    texts = st.sampled_from(pieces(form)) | TEXTS

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(texts, max_size=14)
        | st.lists(texts | st.integers(0, max(len(marks) - 1, 0)), max_size=14 if marks else 0),
        st.randoms(use_true_random=False),
    )
    def check(parts: list[str | int], random: Any) -> None:
        used = marks if any(isinstance(part, int) for part in parts) else []
        whole = streamed(form, parts, used)
        cut = [piece for part in parts for piece in ([part] if isinstance(part, int) else cuts(part, random))]
        assert streamed(form, cut, used) == whole
        found, text, calls = whole
        assert text == found.text == text.strip()
        assert len(found.calls) <= len(calls)
        good = [(call.name, call.arguments) for call in found.calls]
        for name, arguments in calls.values():
            if good and name == good[0][0] and parsed(arguments) == good[0][1]:
                good.pop(0)
        assert good == [], "what is found was streamed"

    check()


def cuts(text: str, random: Any) -> list[str]:
    places = sorted(random.sample(range(len(text) + 1), random.randint(0, min(3, len(text) + 1))))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def test_text_is_told_as_soon_as_it_is_certain() -> None:
    scanner = CallScanner(HERMES)
    said = [scanner.push(text).text for text in ("Hi", " ", "you", " <", "b>", " <tool", "_call", "s", "\n<tool_call>")]
    assert said == ["Hi", "", " you", "", " <b>", "", "", " <tool_calls", ""]


def test_arguments_are_told_as_they_come() -> None:
    scanner = CallScanner(HERMES)
    deltas = [
        scanner.push(text).calls
        for text in ('<tool_call>{"name": "f', '", "arguments": {"a', '": 1', "}", "}\n</tool_call>")
    ]
    told = [[(delta.name, delta.arguments) for delta in each] for each in deltas]
    assert told == [[], [("f", '{"a')], [(None, '": 1')], [(None, "}")], []]
    assert scanner.found.calls == [ToolCall("f", {"a": 1})]


def test_a_call_that_is_cut_off_is_a_problem_behind_whole_ones() -> None:
    text = '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a": '
    found, _, deltas = streamed(MISTRAL_LIST, [text])
    assert found.calls == [ToolCall("f", {})]
    assert "has no end" in found.problems[0]
    assert deltas == {0: ["f", "{}"], 1: ["g", '{"a": ']}


@pytest.mark.parametrize(
    ("form", "text", "calls", "said"),
    [
        (LLAMA, '{"name": "Bob", "age": 3}', [], '{"name": "Bob", "age": 3}'),
        (LLAMA, '{"answer": 1}', [], '{"answer": 1}'),
        (LLAMA, ' \n{ "name" : "f", "parameters": {}}', ["f"], ""),
        (LLAMA, 'It is {"name": "f", "parameters": {}}', [], 'It is {"name": "f", "parameters": {}}'),
        (LLAMA, '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}', ["f", "g"], ""),
        (LLAMA, '{"name": "f", "parameters": {}}; done', ["f"], "done"),
        (GEMMA, '```json\n{"name": "f", "parameters": {}}\n```', ["f"], ""),
        (GEMMA, 'So:\n```json\n{"a": 1}\n```', [], 'So:\n```json\n{"a": 1}\n```'),
        (GEMMA, '```json\n[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}]\n```', ["f", "g"], ""),
        (MISTRAL, 'Hm.[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', ["f"], "Hm."),
        (MISTRAL, '[TOOL_CALLS]f[ARGS] {"a": 1}', ["f"], ""),
        (MISTRAL_LIST, '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abcdefghi"}]', ["f"], ""),
        (MISTRAL_LIST, '[TOOL_CALLS][{"arguments": {}, "name": "f"}]', ["f"], ""),
        (PHI, '<|tool_call|>{"name": "f", "arguments": "{}"}<|/tool_call|>Done', ["f"], "Done"),
        (HERMES, '<tool_call>[{"name": "f", "arguments": null}]</tool_call>', ["f"], ""),
        (QWEN_CODER, "<tool_call><function=f></function></tool_call>", ["f"], ""),
    ],
)
def test_what_models_write_besides(form: Form, text: str, calls: list[str], said: str) -> None:
    found, _, _ = streamed(form, [text])
    assert [call.name for call in found.calls] == calls
    assert found.text == said
    assert found.problems == []


def test_types_of_tags_are_those_of_the_schema() -> None:
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"enum": ["1", "2"]}, "d": {"enum": [1, "1"]}}
    scanner = CallScanner(QWEN_CODER, tools=[Tool("f", "", {"type": "object", "properties": properties})])
    tags = "".join(f"<parameter={key}>\n1\n</parameter>\n" for key in "abcde")
    scanner.push(f"<tool_call>\n<function=f>\n{tags}</function>\n</tool_call>")
    scanner.finish()
    assert scanner.found.calls == [ToolCall("f", {"a": "1", "b": 1, "c": "1", "d": 1, "e": 1})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<function=>\n</function>", "has no name"),
        ("<function f>", "is not a function"),
        ("<function=f>\na", "a parameter without a tag"),
        ("<function=f>\n<parameter>1</parameter></function>", "a tag that is no parameter"),
        ("<function=f><parameter=a>1</parameter><parameter=a>1</parameter></function>", "a tag that is no parameter"),
        ("<function=f></function>and more", "is not JSON alone"),
    ],
)
def test_broken_tags_are_problems(text: str, said: str) -> None:
    found, _, _ = streamed(QWEN_CODER, [f"A<tool_call>{text}</tool_call>B"])
    assert found.calls == []
    assert found.text == "AB"
    assert said in found.problems[0]
