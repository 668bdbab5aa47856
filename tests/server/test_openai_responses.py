"""The Responses API, as the official Python client asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from tool_calls import call

ALARM: Any = {
    "type": "function",
    "name": "set_alarm",
    "description": "Set an alarm.",
    "parameters": {"type": "object", "properties": {"time": {"type": "string"}}, "required": ["time"]},
    "strict": True,
}


def test_a_text_is_answered(says: Callable[..., OpenAI]) -> None:
    answer = says("Good day!").responses.create(model="toy", input="hello", instructions="Be kind.")
    assert answer.output_text == "Good day!"
    assert (answer.status, answer.object, answer.model) == ("completed", "response", "toy")
    assert answer.instructions == "Be kind."
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_instructions_and_messages_are_what_a_chat_has(client: OpenAI) -> None:
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi!", "annotations": []}],
        },
        {"role": "user", "content": "and a story?"},
    ]
    asked: Any = {"model": "tiny", "temperature": 0}
    answer = client.responses.create(input=items, instructions="Be short.", max_output_tokens=12, **asked)
    messages: Any = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "and a story?"},
    ]
    chat = client.chat.completions.create(messages=messages, max_tokens=12, **asked)
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage is not None
    assert chat.usage is not None
    assert answer.usage.input_tokens == chat.usage.prompt_tokens


def test_events_tell_the_response_piece_by_piece(says: Callable[..., OpenAI]) -> None:
    events = list(says("Good day, 世界!").responses.create(model="toy", input="hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Good day, 世界!"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Good day, 世界!"


def test_an_answer_cut_short_is_incomplete(client: OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="Tell me a story.", max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_functions_are_called_and_their_results_read(says: Callable[..., OpenAI]) -> None:
    toy = says(call("set_alarm", time="six"), "Done.")
    question: Any = {"role": "user", "content": "wake me at six"}
    first = toy.responses.create(model="toy", input=[question], tools=[ALARM])
    (made,) = first.output
    assert made.type == "function_call"
    assert (made.name, json.loads(made.arguments)) == ("set_alarm", {"time": "six"})
    result = {"type": "function_call_output", "call_id": made.call_id, "output": "ok"}
    items: Any = [question, made.model_dump(exclude_none=True), result]
    assert toy.responses.create(model="toy", input=items, tools=[ALARM]).output_text == "Done."


def test_calls_in_events(says: Callable[..., OpenAI]) -> None:
    toy = says(f"I will.\n{call('set_alarm', time='six')}")
    with toy.responses.stream(model="toy", input="wake me", tools=[ALARM]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds
    assert [item.type for item in final.output] == ["message", "function_call"]
    assert final.output_text == "I will."


def test_a_named_function_is_called(client: OpenAI) -> None:
    choice: Any = {"type": "function", "name": "set_alarm"}
    answer = client.responses.create(model="tiny", input="hello", tools=[ALARM], tool_choice=choice)
    assert [item.type for item in answer.output] == ["function_call"]


def test_a_format_is_held(client: OpenAI) -> None:
    from pydantic import BaseModel, Field

    class Place(BaseModel):
        city: str = Field(max_length=10)
        warm: bool

    answer = client.responses.parse(model="tiny", input="hello", text_format=Place, max_output_tokens=60)
    assert isinstance(answer.output_parsed, Place)


def test_log_probabilities_where_asked_for(client: OpenAI) -> None:
    answer = client.responses.create(
        model="tiny",
        input="hello",
        max_output_tokens=4,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    (item,) = answer.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs or [])
    assert len(part.logprobs or []) == 4


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"reasoning": {"effort": "high"}}, "reasoning_effort"),
    ],
)
def test_what_is_not_supported_is_refused(client: OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "tiny", "input": "hello", **asked})
    assert caught.value.param == param
    assert str(caught.value).count(".") >= 1
