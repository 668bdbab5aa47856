"""Chat completions, as the official Python client asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from ingle.engine.model import Model

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about a cat."}]


def text_of(completion: Any) -> str:
    text: str = completion.choices[0].message.content
    return text


def test_an_answer_has_everything_that_clients_read(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=40, seed=1)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_a_whole_answer_says(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=STORY, max_tokens=30, seed=5)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=STORY, max_tokens=30, seed=5, stream=True, stream_options={"include_usage": True}
        )
    )
    *said, last = chunks
    assert said[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == text_of(whole)
    assert [chunk.choices[0].finish_reason for chunk in said] == [None] * (len(said) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in said)
    assert last.choices == []
    assert whole.usage is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 30
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_tells_it(client: OpenAI) -> None:
    for chunk in client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3, stream=True):
        assert chunk.usage is None
        assert len(chunk.choices) == 1


def test_a_seed_repeats_and_several_answers_differ(client: OpenAI) -> None:
    def answers() -> list[str | None]:
        asked = client.chat.completions.create(
            model="tiny", messages=STORY, max_tokens=12, n=3, seed=7, temperature=1.5
        )
        assert [choice.index for choice in asked.choices] == [0, 1, 2]
        return [choice.message.content for choice in asked.choices]

    first = answers()
    assert first == answers()
    assert len(set(first)) == 3


def test_several_answers_in_one_stream_are_told_apart(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=STORY, max_tokens=8, n=2, seed=7)
    said = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="tiny", messages=STORY, max_tokens=8, n=2, seed=7, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == {choice.index: choice.message.content for choice in whole.choices}


def test_temperature_0_is_the_likeliest_and_top_p_0_too(client: OpenAI) -> None:
    likeliest = client.chat.completions.create(model="tiny", messages=STORY, max_tokens=10, temperature=0)
    for more in ({"top_p": 0}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}):
        asked: Any = {"temperature": 1.0, **more}
        assert text_of(client.chat.completions.create(model="tiny", messages=STORY, max_tokens=10, **asked)) == text_of(
            likeliest
        )


def test_penalties_and_biases_reach_the_sampler(client: OpenAI, model: Model) -> None:
    def answer(**asked: Any) -> str:
        return text_of(
            client.chat.completions.create(model="tiny", messages=STORY, temperature=0, **{"max_tokens": 60, **asked})
        )

    plain = answer()
    first = model.tokenizer.encode(plain, add_special=False)[0]
    said = model.tokenizer.encode(answer(logit_bias={str(first): -100}), add_special=False)
    assert first not in said
    assert len(set(answer(logit_bias={str(first): 100}, max_tokens=4).split())) == 1
    assert answer(frequency_penalty=2.0) != plain
    assert answer(presence_penalty=2.0) != plain
    assert answer(extra_body={"repeat_penalty": 3.0}) != plain


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_as_long_as_asked(client: OpenAI, field: str) -> None:
    limit: Any = {field: 3}
    answer = client.chat.completions.create(model="tiny", messages=STORY, **limit)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_it_ends_before_a_stop_string(says: Callable[..., OpenAI]) -> None:
    toy = says("one two three four")
    for stop in (" three", ["nowhere", " th"]):
        answer = toy.chat.completions.create(model="toy", messages=HELLO, stop=stop)
        assert (text_of(answer), answer.choices[0].finish_reason) == ("one two", "stop")
    streamed = toy.chat.completions.create(model="toy", messages=HELLO, stop=[" three"], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "one two"


def test_characters_come_whole(says: Callable[..., OpenAI]) -> None:
    text = "Grüße, 世界! 🙂 é\u2028ü"
    toy = says(text)
    chunks = [
        chunk.choices[0].delta.content
        for chunk in toy.chat.completions.create(model="toy", messages=HELLO, stream=True, logprobs=True)
    ]
    assert "".join(piece or "" for piece in chunks) == text
    assert all(piece is None or "\ufffd" not in piece for piece in chunks)
    middle = chunks[1:-1]  # the role, and the end
    assert all(middle), "a token that is half a character has no chunk of its own"


def test_what_people_write_comes_back_as_it_was(client: OpenAI) -> None:
    message: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "Grüße"}, {"type": "text", "text": " 世界"}]}
    ]
    assert client.chat.completions.create(model="tiny", messages=message, max_tokens=2).choices


def test_log_probabilities(client: OpenAI, model: Model) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=STORY, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 6
    assert b"".join(bytes(one.bytes or []) for one in logprobs.content).decode() == text_of(answer)
    for one in logprobs.content:
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].token == one.token
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob, abs=1e-4)
        ranked = [top.logprob for top in one.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert ranked[0] <= 0


def test_log_probabilities_in_a_stream_are_those_of_the_whole(client: OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": STORY, "max_tokens": 6, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**asked)
    streamed: list[str] = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        if (logprobs := chunk.choices[0].logprobs) is not None:
            streamed += [one.token for one in logprobs.content or []]
    assert whole.choices[0].logprobs is not None
    assert streamed == [one.token for one in whole.choices[0].logprobs.content or []]


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_schema_is_held(client: OpenAI, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    how: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    asked: Any = {"model": "tiny", "messages": STORY, "response_format": how, "seed": 3, "max_tokens": 100}
    if stream:
        pieces = client.chat.completions.create(**asked, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    else:
        text = text_of(client.chat.completions.create(**asked))
    value = json.loads(text)
    assert set(value) == {"name", "age"}
    assert isinstance(value["age"], int)


def test_a_pydantic_model_is_parsed(client: OpenAI) -> None:
    from pydantic import BaseModel, Field

    class Place(BaseModel):
        city: str = Field(max_length=10)
        warm: bool

    asked = client.chat.completions.parse(model="tiny", messages=STORY, response_format=Place, seed=3, max_tokens=60)
    assert isinstance(asked.choices[0].message.parsed, Place)


def test_json_object_is_an_object(says: Callable[..., OpenAI]) -> None:
    answer = says('{"a": [1, 2]}').chat.completions.create(
        model="toy", messages=HELLO, response_format={"type": "json_object"}
    )
    assert json.loads(text_of(answer)) == {"a": [1, 2]}


def test_many_users_at_once_get_what_each_gets_alone(client: OpenAI) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(index: int) -> str:
        messages: Any = [{"role": "user", "content": f"Tell me about the number {index}."}]
        return text_of(
            client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=16, temperature=0, seed=1, user=f"user {index % 3}"
            )
        )

    alone = [ask(index) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_a_prompt_too_long_is_told_as_clients_expect(client: OpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 5000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=long, stream=stream)
        assert caught.value.code == "context_length_exceeded"
