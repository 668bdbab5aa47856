"""Reading tools, and finding calls in answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingle.errors import UsageError
from ingle.text.tools import MAX_TOOLS, Tool, ToolCall, find_calls, read_tools
from shared_data import shared
from tool_calls import call

ALARM = {
    "name": "set_alarm",
    "description": "Wake me",
    "parameters": {"type": "object", "properties": {"time": {"type": "string"}}, "required": ["time"]},
}
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "value",
    [
        [ALARM],
        (ALARM,),
        ALARM,
        {"tools": [ALARM]},
        [{"type": "function", "function": ALARM}],
        {"type": "function", "function": ALARM},
        {"tools": [{"type": "function", "function": ALARM}]},
    ],
)
def test_every_usual_form_is_read(value: object) -> None:
    (tool,) = read_tools(value, "tools.json")
    assert tool == Tool("set_alarm", "Wake me", ALARM["parameters"])
    assert tool.as_openai() == {"type": "function", "function": ALARM}


def test_nothing_is_no_tools() -> None:
    assert read_tools(None, "x") == read_tools([], "x") == read_tools({"tools": []}, "x") == []


def test_a_tool_without_parameters_has_none() -> None:
    assert read_tools([{"name": "stop"}], "x")[0].parameters == {"type": "object", "properties": {}}
    assert read_tools([{"name": "stop", "parameters": {}}], "x")[0] == Tool("stop")


def test_other_names_of_types_become_those_of_json_schema() -> None:
    properties = {
        "type": {"type": "float"},  # a parameter that is called "type" is no type
        "where": {"type": "tuple", "items": {"type": "dict", "properties": {"any": {"type": "any", "default": 1}}}},
        "either": {"anyOf": [{"type": "int"}, {"type": ["str", "null"]}]},
        "values": {"type": "array", "items": {"enum": ["dict"]}},
    }
    tool = read_tools({"name": "f", "parameters": {"type": "dict", "properties": properties}}, "x")[0]
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "type": {"type": "number"},
            "where": {"type": "array", "items": {"type": "object", "properties": {"any": {"default": 1}}}},
            "either": {"anyOf": [{"type": "integer"}, {"type": ["string", "null"]}]},
            "values": {"type": "array", "items": {"enum": ["dict"]}},
        },
    }
    assert properties["type"] == {"type": "float"}, "what was given is left as it is"


def deep(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("set_alarm", "a text"),
        (7, "a number"),
        ([7], "tool 1 is a number"),
        ([[ALARM]], "tool 1 is a list"),
        ([{}], "name"),
        ([{"name": ""}], "name"),
        ([{"name": "a\nb"}], "name"),
        ([{"name": "x" * 300}], "name"),
        ([{"name": "f", "description": 3}], "description"),
        ([{"name": "f", "parameters": []}], "parameters"),
        ([{"name": "f", "parameters": {"type": "string"}}], "'string'"),
        ([{"name": "f", "parameters": {"type": "any"}}, {"name": "f"}], "two tools with the name f"),
        ([{"name": "f", "parameters": {"properties": []}}], "properties"),
        ([{"name": "f", "parameters": {"properties": {"a": {"type": "file"}}}}], "'file'"),
        ([{"name": "f", "parameters": {"properties": {"a": {"type": [["string"]]}}}}], "type"),
        ([{"name": "f", "parameters": {"properties": {"a": {"default": {1, 2}}}}}], "JSON cannot hold"),
        ([{"name": "f", "parameters": {"properties": {"a": {"default": float("nan")}}}}], "JSON cannot hold"),
        ([deep(100)], "deeper than 64"),
        ([{"name": "f", "description": "x" * 2**20}], "characters"),
        ([{"name": str(i)} for i in range(MAX_TOOLS + 1)], str(MAX_TOOLS)),
    ],
)
def test_what_is_no_tool_is_a_sentence(value: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_tools(value, "tools.json")
    message = str(caught.value)
    assert message.startswith("tools.json")
    assert said in message
    assert message.endswith(".")
    assert "\n" not in message


def test_the_tools_of_bfcl_are_read() -> None:
    for name, n_items in (("simple_python", 400), ("multiple", 200), ("irrelevance", 240)):
        lines = shared(f"api_calls/bfcl/BFCL_v4_{name}.json").read_text().splitlines()
        assert len(lines) == n_items
        for line in lines:
            found = read_tools(json.loads(line)["function"], name)
            assert found
            tools = json.dumps([tool.as_openai() for tool in found])
            assert '"dict"' not in tools
            assert '"type": "float"' not in tools


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), max_size=3))
def test_calls_are_found_as_they_were_written(calls: list[tuple[str, dict[str, object]]]) -> None:
    found = find_calls("\n".join(call(name, arguments) for name, arguments in calls))
    assert found.calls == [ToolCall(name, arguments) for name, arguments in calls]
    assert found.text == ""
    assert found.problems == []


@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "f"}', "{", '"', "\\", "[", " ", "a"])))
def test_no_text_is_an_error(parts: list[str]) -> None:
    found = find_calls("".join(parts))
    assert "<tool_call>" not in found.text
    assert len(found.calls) + len(found.problems) <= parts.count("<tool_call>")


def test_text_stands_outside_of_calls() -> None:
    found = find_calls(f"Sure. {call('f', {})}\nDone. ")
    assert found.text == "Sure. \nDone."
    assert found.calls == [ToolCall("f", {})]
    assert find_calls("Just words.").text == "Just words."


def test_markup_in_an_argument_does_not_end_a_call() -> None:
    text = "a</tool_call>b<tool_call>c"
    assert find_calls(call("say", {"text": text})).calls == [ToolCall("say", {"text": text})]


def test_arguments_may_be_json_text_or_absent() -> None:
    assert find_calls(call("f", '{"a": 1}')).calls == [ToolCall("f", {"a": 1})]
    assert find_calls('<tool_call>{"name": "f"}</tool_call>').calls == [ToolCall("f", {})]


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("{'name': 'f'}", "is not JSON:"),
        ("", "is not JSON:"),
        ('{"name": "f", "arguments": {"a": NaN}}', "is not JSON:"),
        ('{"name": "f", "arguments": {"a": 1e999}}', "is not JSON:"),
        ('{"name": "f", "arguments": {"a": ' + "[" * 100_000, "is not JSON:"),
        ('{"name": "f"} and more', "is not JSON alone"),
        ('{"name": ""}', "has no name"),
        ('{"arguments": {}}', "has no name"),
        ("[]", "has no name"),
        ('{"name": "f", "arguments": "{"}', "arguments that are not JSON"),
        ('{"name": "f", "arguments": [1]}', "arguments that are no object"),
        ('{"name": "f", "arguments": "7"}', "arguments that are no object"),
    ],
)
def test_a_broken_call_is_a_problem_and_no_call(inside: str, said: str) -> None:
    found = find_calls(f"A<tool_call>{inside}</tool_call>B{call('f', {})}")
    assert found.calls == [ToolCall("f", {})]
    assert found.text == "AB"
    (problem,) = found.problems
    assert said in problem
    assert len(problem) < 200
    assert "\n" not in problem


def test_a_call_that_is_cut_off_has_no_end() -> None:
    found = find_calls('Well, <tool_call>\n{"name": "f", "argum')
    assert found.calls == []
    assert found.text == "Well,"
    assert "has no end" in found.problems[0]


def test_halves_of_characters_do_not_get_through() -> None:
    found = find_calls('<tool_call>{"name": "f", "arguments": {"a": ["\\ud83d", "\\ud83d\\ude00"]}}</tool_call>')
    assert found.calls == [ToolCall("f", {"a": ["\ufffd", "\U0001f600"]})]
    found.calls[0].to_json().encode()


def test_a_call_is_written_on_one_line() -> None:
    assert ToolCall("f", {"a": "é\n", "b": [1, 2]}).to_json() == (
        '{"name": "f", "arguments": {"a": "é\\n", "b": [1, 2]}}'
    )
