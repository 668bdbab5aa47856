"""Records of the common data sets: what each is read as, and the sentence for each that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingle.errors import DataError
from ingle.train.data.document import Segment
from ingle.train.data.records import read_record
from ingle.train.data.sources import Source, read_documents
from shared_data import shared

FUNCTION = {"name": "rain", "description": "mm", "parameters": {}}
ASK = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"


def text_of(record: object, **more: Any) -> str:
    return read_record(record, "here", **more).text


def learnt(record: object) -> str:
    return "".join(segment.text for segment in read_record(record, "here").segments if segment.learn)


@pytest.mark.parametrize("key", ["text", "content"])
def test_a_text_is_learnt_whole_and_as_it_is(key: str) -> None:
    document = read_record({key: " a\n<|im_end|>", "id": 7}, "file:3", licence="mit")
    assert document.segments == (Segment(" a\n<|im_end|>", learn=True, special=False),)
    assert (document.origin, document.licence) == ("file:3", "mit")


def test_the_records_licence_counts_first() -> None:
    assert read_record({"text": "a", "licence": "cc0"}, "x", licence="mit").licence == "cc0"
    assert read_record({"text": "a", "license": None}, "x", licence="mit").licence == "mit"
    assert read_record({"text": "a"}, "x").licence is None


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"instruction": "a", "output": "b"}, "a", "b"),
        ({"instruction": "a", "input": "c", "output": "b"}, "a\n\nc", "b"),
        ({"instruction": "a", "input": "", "output": "b", "text": "all of it once more"}, "a", "b"),
        ({"instruction": "a", "context": "c", "response": "b", "category": "x"}, "a\n\nc", "b"),
        ({"prompt": "a", "response": "b"}, "a", "b"),
        ({"prompt": "a", "completion": "b"}, "a", "b"),
        ({"question": "a", "answer": "b"}, "a", "b"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a", "b"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "a", "b"),
        ({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a", "b"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
         "a", "b"),
        ({"role": "prompter", "text": "a", "replies": [{"role": "assistant", "text": "b", "replies": []}]}, "a", "b"),
        (
            {"prompt": {"role": "prompter", "text": "a", "replies": [
                {"role": "assistant", "text": "b", "replies": [{"role": "prompter", "text": "left", "replies": []}]},
                {"role": "assistant", "text": "worse", "replies": []},
            ]}},
            "a",
            "b",
        ),
    ],
)  # fmt: skip
def test_a_question_and_its_answer(record: dict[str, Any], question: str, answer: str) -> None:
    assert text_of(record) == ASK.format(question, answer)
    assert learnt(record) == f"{answer}<|im_end|>"


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "a", "output": "b", "system": "S"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "S"},
        {"conversations": [{"from": k, "value": v} for k, v in (("system", "S"), ("human", "a"), ("gpt", "b"))]},
    ],
)
def test_a_system_message(record: dict[str, Any]) -> None:
    assert text_of(record) == "<|im_start|>system\nS<|im_end|>\n" + ASK.format("a", "b")


@pytest.mark.parametrize("tools", [[FUNCTION], json.dumps([{"type": "function", "function": FUNCTION}])])
@pytest.mark.parametrize("arguments", [{"mm": 1}, '{"mm": 1}'])
def test_calls_in_sharegpt_are_those_of_openai(tools: object, arguments: object) -> None:
    call = {"name": "rain", "arguments": arguments}
    turns = (("human", "a"), ("gpt", "Wait."), ("function_call", json.dumps(call)), ("observation", "3"), ("gpt", "b"))
    sharegpt = {"conversations": [{"from": sender, "value": value} for sender, value in turns], "tools": tools}
    openai = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "Wait.", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "b"},
        ],
        "tools": tools,
    }
    assert read_record(sharegpt, "here").segments == read_record(openai, "here").segments
    said = '<tool_call>\n{"name": "rain", "arguments": {"mm": 1}}\n</tool_call>'
    assert learnt(sharegpt) == f"Wait.\n{said}<|im_end|>b<|im_end|>"


def test_several_calls_in_one_turn() -> None:
    calls = [{"name": "rain", "arguments": {}}, {"name": "sun", "arguments": {}}]
    turns = [("human", "a"), ("function_call", json.dumps(calls)), ("observation", "3"), ("gpt", "b")]
    record = {"conversations": [{"from": sender, "value": value} for sender, value in turns]}
    assert learnt(record).count("<tool_call>") == 2


def test_tools_that_are_an_empty_text_are_none() -> None:
    assert text_of({"prompt": "a", "response": "b", "tools": ""}) == ASK.format("a", "b")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ([1], "here: this is a list; expected an object with fields such as text or messages."),
        ("text", "here: this is a text; expected"),
        (None, "here: this is null; expected"),
        (
            {},
            "no field that is understood (text, content, messages, conversations, instruction with output or response",
        ),
        ({"x": 1, "instruction": "a"}, "; it has 'x', 'instruction'."),
        ({f"field {n}": 0 for n in range(20)}, "'field 7' ..."),
        ({"text": 7}, "the field 'text' is a number; expected a text."),
        ({"text": " \n"}, "the field 'text' is empty; take the record out."),
        ({"text": None}, "no field that is understood"),
        ({"messages": "a"}, "the field 'messages' is a text; expected a list."),
        ({"messages": [{"role": "user", "content": "a"}]}, "here: this conversation has no turn of the assistant"),
        ({"conversations": [{"from": "bing", "value": "a"}]}, "turn 1 is from 'bing'; expected one of human, user"),
        ({"conversations": ["a"]}, "turn 1 is from None"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "rain()"}]},
            "not JSON",
        ),
        ({"instruction": "", "output": "b"}, "the field 'instruction' is empty"),
        ({"instruction": "a", "output": ""}, "message 2 of the assistant has neither text nor a tool call"),
        ({"instruction": ["a"], "output": "b"}, "the field 'instruction' is a list; expected a text."),
        ({"prompt": "a", "response": 7}, "the field 'response' is a number; expected a text."),
        (
            {"prompt": "a", "response": "b", "tools": "{"},
            "the field 'tools' is not JSON; expected a list of functions.",
        ),
        ({"prompt": "a", "response": "b", "tools": {"a": 1}}, "the field 'tools' is an object; expected a list."),
        ({"role": "prompter", "text": "a", "replies": []}, "no turn of the assistant"),
    ],
)
def test_records_that_are_not_understood(record: object, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        read_record(record, "here")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("here: ")


def test_a_named_field_and_no_other() -> None:
    assert text_of({"text": "a", "body": "b"}, text_field="body") == "b"
    with pytest.raises(DataError, match="there is no field 'body'; it has 'text'"):
        read_record({"text": "a"}, "here", text_field="body")
    with pytest.raises(DataError, match="the field 'body' is a list; expected a text"):
        read_record({"body": ["a"]}, "here", text_field="body")


@pytest.mark.parametrize(
    ("name", "documents", "first"),
    [
        ("instruct/dolly15k_en.jsonl", 15015, "Virgin Australia commenced services on 31 August 2000"),
        ("instruct/llamafactory_identity.json", 91, "Hello! I am {{name}}, an AI assistant"),
        ("instruct/oasst_en_100_tree.jsonl", 100, ""),
        ("instruct/oasst_en_100_message.jsonl", 100, ""),
        ("api_calls/glaive_toolcall_en_demo.json", 300, "Of course! I can help you with that."),
    ],
)
def test_real_records(name: str, documents: int, first: str) -> None:
    found = list(read_documents(Source(str(shared(name)))))
    assert len(found) == documents
    answers = ["".join(segment.text for segment in document.segments if segment.learn) for document in found]
    assert answers[0].startswith(first)
    assert all(answer.endswith("<|im_end|>") and "<|im_start|>user" not in answer for answer in answers)
