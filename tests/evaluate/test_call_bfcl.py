"""BFCL's files: how they become items, by hand and, where the data is, on all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingle.errors import DataError, UsageError
from ingle.evaluate.calls.baselines import right_calls, write_calls
from ingle.evaluate.calls.item import Item
from ingle.evaluate.calls.score import metrics, score
from ingle.evaluate.calls.sources import load_items
from ingle.evaluate.calls.sources.bfcl import BFCL, items
from ingle.text.tools import ToolCall
from shared_data import DATA, needs

CALLS = DATA / "api_calls"
there = needs("api_calls/bfcl")

FUNCTION = {
    "name": "geo.area",
    "description": "The area of a shape.",
    "parameters": {
        "type": "dict",
        "properties": {
            "shape": {"type": "string"},
            "sides": {"type": "array", "items": {"type": "float"}},
            "exact": {"type": "boolean"},
            "unit": {"type": "dict", "properties": {"name": {"type": "string"}, "power": {"type": "integer"}}},
        },
        "required": ["shape", "exact"],
    },
}
ANSWER = {
    "geo.area": {
        "shape": ["right triangle", "triangle"],
        "sides": [[3.0, 4.0]],
        "exact": [True, ""],
        "unit": ["", {"name": ["m", "metre"], "power": [2, ""]}],
        "colour": ["", "red"],
    }
}


def write(folder: Path, category: str, question: object, answers: object = None, functions: object = None) -> Path:
    (folder / "bfcl" / "possible_answer").mkdir(parents=True)
    functions = [FUNCTION] if functions is None else functions
    name = f"BFCL_v4_{category}.json"
    record = {"id": "a_0", "question": question, "function": functions}
    (folder / "bfcl" / name).write_text(json.dumps(record) + "\n")
    if answers is not None:
        text = json.dumps({"id": "a_0", "ground_truth": answers}) + "\n"
        (folder / "bfcl" / "possible_answer" / name).write_text(text)
    return folder


QUESTION = [[{"role": "user", "content": "How large is it?"}]]


def one(tmp_path: Path, answer: dict[str, Any] = ANSWER) -> Item:
    (found,) = items("bfcl_simple", write(tmp_path, "simple_python", QUESTION, [answer]))
    return found


def test_an_item(tmp_path: Path) -> None:
    found = one(tmp_path)
    assert (found.id, found.source) == ("a_0", "bfcl_simple")
    assert found.messages == ({"role": "user", "content": "How large is it?"},)
    assert found.tools[0].parameters["properties"]["sides"] == {"type": "array", "items": {"type": "number"}}
    (call,) = found.expected
    assert call.name == "geo.area"
    units = [{"name": name, **power} for name in ("m", "metre") for power in ({"power": 2}, {}, {"power": ""})]
    assert dict(call.arguments) == {
        "shape": ("right triangle", "triangle"),
        "sides": ([3.0, 4.0],),
        "exact": (True,),  # the function requires it, so it may not be absent
        "unit": ("", *units),
        # no colour: the function does not have it
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"shape": "right triangle", "sides": [3, 4], "exact": True}, ""),
        ({"shape": "Right-Triangle", "sides": [3.0, 4], "exact": True, "unit": {"name": "M", "power": 2}}, ""),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "unit": {"name": "metre"}}, ""),
        ({"shape": "triangle", "sides": [4, 3], "exact": True}, "sides"),
        ({"shape": "triangle", "sides": [3, 4]}, "lacks exact"),
        ({"shape": "triangle", "sides": [3, 4], "exact": "true"}, "exact = 'true'"),
        ({"shape": "triangle", "sides": [3, 4], "exact": 1}, "exact = 1"),
        ({"sides": [3, 4], "exact": True}, "lacks shape"),
        ({"shape": "triangle", "exact": True}, "lacks sides"),
        ({"shape": "square", "sides": [3, 4], "exact": True}, "shape = 'square'"),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "unit": {"power": 2}}, "unit"),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "unit": {"name": "m", "power": 3}}, "unit"),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "unit": {"name": "m", "power": 2.0}}, "unit"),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "unit": {"name": "m", "x": 1}}, "unit"),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "unit": ""}, "unit = ''"),
        ({"shape": "triangle", "sides": [3, 4], "exact": True, "colour": "red"}, "was given colour"),
    ],
)
def test_answers(tmp_path: Path, arguments: dict[str, Any], reason: str) -> None:
    found = score(one(tmp_path), write_calls([ToolCall("geo.area", arguments)]))
    assert found.intent
    assert found.structure is not bool(reason), found.reason
    assert reason in found.reason


def test_objects_in_a_list(tmp_path: Path) -> None:
    answer = {"geo.area": {"shape": [[{"a": [1, 2]}, {"b": ["x"]}]], "exact": [True]}}
    values = one(tmp_path, answer).expected[0].arguments["shape"]
    assert values == ([{"a": 1}, {"b": "x"}], [{"a": 2}, {"b": "x"}])


def test_several_calls_and_none(tmp_path: Path) -> None:
    calls = [{"geo.area": {"shape": ["a"], "exact": [True]}}, {"geo.area": {"shape": ["b"], "exact": [False]}}]
    (found,) = items("bfcl_parallel", write(tmp_path / "1", "parallel", QUESTION, calls))
    assert [call.arguments["shape"] for call in found.expected] == [("a",), ("b",)]
    answer = write_calls(right_calls(found)[::-1])
    assert score(found, answer).structure
    (found,) = items("bfcl_irrelevance", write(tmp_path / "2", "irrelevance", QUESTION))
    assert found.expected == ()


@pytest.mark.parametrize(
    ("question", "answers", "functions", "message"),
    [
        (QUESTION, None, None, "cannot be read"),
        (QUESTION * 2, [ANSWER], None, "has 2 turns"),
        ([[{"role": "user"}]], [ANSWER], None, "expected a text"),
        ("How?", [ANSWER], None, "expected a list"),
        (QUESTION, ANSWER, None, "expected a list"),
        (QUESTION, [{"area": {}}], None, "expects a call of area; expected one of its tools"),
        (QUESTION, [{"geo.area": {}, "b": {}}], None, "expected one of its tools"),
        (QUESTION, [{"geo.area": {"shape": "a"}}], None, "expected a list"),
        (QUESTION, [{"geo.area": {"unit": [{"name": "m"}]}}], None, "expected a list"),
        (QUESTION, [{"geo.area": {"unit": [{c: [1, 2] for c in "abcdefghijklmn"}]}}], None, "right objects"),
        (QUESTION, [ANSWER], [{"name": 1}], "has the name"),
        (QUESTION, [ANSWER], [{"name": "geo.area", "parameters": {"required": 5}}], "expected a list"),
    ],
)
def test_files_that_are_not_sound(
    tmp_path: Path, question: object, answers: object, functions: object, message: str
) -> None:
    folder = write(tmp_path, "simple_python", question, answers, functions)
    with pytest.raises(DataError, match=message):
        items("bfcl_simple", folder)


def test_an_answer_that_is_missing(tmp_path: Path) -> None:
    folder = write(tmp_path, "simple_python", QUESTION, [ANSWER])
    path = folder / "bfcl" / "possible_answer" / "BFCL_v4_simple_python.json"
    path.write_text(path.read_text().replace("a_0", "a_1"))
    with pytest.raises(DataError, match="a_0 has no answer"):
        items("bfcl_simple", folder)
    path.write_text("{")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        items("bfcl_simple", folder)
    (folder / "bfcl" / "BFCL_v4_simple_python.json").write_text("")
    path.write_text("")
    with pytest.raises(DataError, match="has no items"):
        items("bfcl_simple", folder)


def test_an_unknown_part(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no known part of BFCL"):
        items("bfcl_multi_turn_base", tmp_path)


@there
@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("bfcl_simple", 400),
        ("bfcl_multiple", 200),
        ("bfcl_parallel", 200),
        ("bfcl_parallel_multiple", 200),
        ("bfcl_irrelevance", 240),
    ],
)
def test_right_answers_are_right_on_all_of_it(source: str, n: int) -> None:
    assert source in BFCL
    found = load_items([source], CALLS)
    assert len(found) == n
    answers = [write_calls(right_calls(item)) for item in found]
    scores = [score(item, answer) for item, answer in zip(found, answers, strict=True)]
    wrong = [(item.id, s.reason) for item, s in zip(found, scores, strict=True) if not s.structure]
    assert not wrong
    # Two of BFCL's own answers do not obey its schemas: a variable's name for a list, and a value not in an enum.
    against = {"parallel_multiple_21", "parallel_multiple_94"}
    assert all(s.obeys for item, s in zip(found, scores, strict=True) if s.tried and item.id not in against)
    figures = {metric.name: metric.value for metric in metrics(scores)}
    assert figures["accuracy"] == 1.0
    if source == "bfcl_irrelevance":
        assert figures == {"accuracy": 1.0, "abstention": 1.0}
        return
    for name in ("intent_em", "structure_em", "argument_precision", "argument_recall", "argument_f1", "valid_json"):
        assert figures[name] == 1.0


@there
def test_wrong_answers_are_wrong_for_the_reason() -> None:
    """Each right answer on all single calls, spoilt in four ways."""
    for item in load_items(["bfcl_simple", "bfcl_multiple"], CALLS):
        (call,) = right_calls(item)
        twice = score(item, write_calls([call, call]))
        assert not twice.intent
        assert "expected " + call.name in twice.reason
        renamed = score(item, write_calls([ToolCall(call.name + "_", call.arguments)]))
        assert not renamed.intent
        assert not renamed.obeys
        more = score(item, write_calls([ToolCall(call.name, {**call.arguments, "n o n e": 1})]))
        assert more.intent
        assert not more.structure
        assert "was given n o n e" in more.reason
        for name in call.arguments:
            fewer = {key: value for key, value in call.arguments.items() if key != name}
            lacking = score(item, write_calls([ToolCall(call.name, fewer)]))
            assert lacking.intent
            assert lacking.reason == f"{call.name} lacks {name}."
