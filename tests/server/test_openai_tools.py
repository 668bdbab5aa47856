"""Tools: called by the model, answered by the client, by the official Python client and by LangChain."""

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
    "function": {
        "name": "set_alarm",
        "description": "Set an alarm.",
        "parameters": {
            "type": "object",
            "properties": {"time": {"type": "string", "maxLength": 20}},
            "required": ["time"],
        },
    },
}
LIGHT: Any = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Turn a light on or off.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string", "enum": ["kitchen", "hall"]}, "on": {"type": "boolean"}},
            "required": ["room", "on"],
        },
    },
}
WAKE: list[Any] = [{"role": "user", "content": "wake me at six"}]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def test_the_bundled_model_calls_a_tool_and_goes_on_with_its_result(client: OpenAI) -> None:
    first = client.chat.completions.create(model="tiny", messages=WAKE, tools=[ALARM, LIGHT])
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (made,) = choice.message.tool_calls or []
    assert made.type == "function"
    assert made.function.name == "set_alarm"
    assert json.loads(made.function.arguments) == {"time": "six"}
    result = {"role": "tool", "tool_call_id": made.id, "content": '{"status": "ok"}'}
    messages: Any = [*WAKE, choice.message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(model="tiny", messages=messages, tools=[ALARM, LIGHT], max_tokens=40)
    assert second.choices[0].message.content


def test_calls_in_a_stream_are_those_of_the_whole(client: OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": WAKE, "tools": [ALARM, LIGHT]}
    name, arguments, ids, finish = "", "", [], None
    for chunk in client.chat.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        assert not choice.delta.content
        for delta in choice.delta.tool_calls or []:
            assert delta.index == 0
            assert delta.function is not None
            ids += [delta.id] if delta.id else []
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
        finish = choice.finish_reason or finish
    assert (name, json.loads(arguments), finish, len(ids)) == ("set_alarm", {"time": "six"}, "tool_calls", 1)


def test_text_and_several_calls(says: Callable[..., OpenAI]) -> None:
    calls = "\n".join([call("set_alarm", time="six"), call("set_light", room="hall", on=True)])
    toy = says(calls)
    message = toy.chat.completions.create(model="toy", messages=HELLO, tools=[ALARM, LIGHT]).choices[0].message
    found = [(made.function.name, json.loads(made.function.arguments)) for made in message.tool_calls or []]
    assert found == [("set_alarm", {"time": "six"}), ("set_light", {"room": "hall", "on": True})]
    assert len({made.id for made in message.tool_calls or []}) == 2
    with toy.chat.completions.stream(model="toy", messages=HELLO, tools=[ALARM, LIGHT]) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert [(made.function.name, json.loads(made.function.arguments)) for made in streamed.tool_calls or []] == found


def test_text_before_a_call_is_content(says: Callable[..., OpenAI]) -> None:
    toy = says(f"I will. < and <tool are no calls.\n{call('set_alarm', time='six')}")
    answer = toy.chat.completions.create(model="toy", messages=HELLO, tools=[ALARM])
    assert answer.choices[0].message.content == "I will. < and <tool are no calls."
    assert len(answer.choices[0].message.tool_calls or []) == 1
    pieces = toy.chat.completions.create(model="toy", messages=HELLO, tools=[ALARM], stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert said == "I will. < and <tool are no calls."


def test_an_answer_without_a_call(says: Callable[..., OpenAI]) -> None:
    (choice,) = says("It is six.").chat.completions.create(model="toy", messages=HELLO, tools=[ALARM]).choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("It is six.", None, "stop")


def test_tool_choice_is_kept(client: OpenAI) -> None:
    def ask(choice: Any, messages: Any = HELLO) -> Any:
        asked: Any = {"messages": messages, "tools": [ALARM, LIGHT], "max_tokens": 80}
        return client.chat.completions.create(model="tiny", **asked, tool_choice=choice).choices[0].message

    assert ask("none", WAKE).tool_calls is None
    assert ask("required").tool_calls
    for name in ("set_alarm", "set_light"):
        (made,) = ask({"type": "function", "function": {"name": name}}).tool_calls
        assert made.function.name == name


def test_calls_are_held_to_their_schemas(client: OpenAI) -> None:
    for seed in range(4):
        asked: Any = {"tools": [LIGHT], "tool_choice": "required", "temperature": 2.0, "seed": seed}
        message = (
            client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=200, **asked).choices[0].message
        )
        for made in message.tool_calls or []:
            arguments = json.loads(made.function.arguments)
            assert arguments["room"] in ("kitchen", "hall")
            assert isinstance(arguments["on"], bool)


def test_one_call_where_parallel_calls_are_off(client: OpenAI) -> None:
    asked: Any = {"tools": [LIGHT], "tool_choice": "required", "parallel_tool_calls": False, "temperature": 2.0}
    for seed in range(3):
        answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=200, seed=seed, **asked)
        assert len(answer.choices[0].message.tool_calls or []) == 1


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}, "tools": [ALARM]}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ],
)
def test_tools_that_cannot_be_are_refused(client: OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, **asked)
    assert caught.value.param == param


def test_a_schema_that_cannot_be_followed_is_refused(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}, "required": ["a"]}
    how: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, response_format=how)
    assert caught.value.code == "invalid_schema"


def test_langchain_calls_a_tool_and_goes_on(url: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    @tool
    def set_alarm(time: str) -> str:
        """Set an alarm."""
        return f"set to {time}"

    chat = ChatOpenAI(model="tiny", base_url=f"{url}/v1", api_key=SecretStr("none"), max_retries=0)
    bound = chat.bind_tools([set_alarm])
    messages: list[Any] = [HumanMessage("wake me at six")]
    first = bound.invoke(messages)
    (made,) = first.tool_calls
    assert (made["name"], made["args"]) == ("set_alarm", {"time": "six"})
    messages += [first, ToolMessage(set_alarm.invoke(made["args"]), tool_call_id=made["id"])]
    assert bound.invoke(messages).content
    gathered = None
    for chunk in bound.stream([HumanMessage("wake me at six")]):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered is not None
    assert gathered.tool_calls[0]["args"] == {"time": "six"}
