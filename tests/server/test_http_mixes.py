"""Options by the dozen, each in its bounds but in every company: no answer is a 500, and no stream ends in an error.

INGLE_FUZZ=5000 asks so many. What fails names its number, by which it is made again.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

N = int(os.environ.get("INGLE_FUZZ", "60"))
TEXTS = [
    "",
    " ",
    "hello",
    "Grüße, 世界 🙂",
    "a\x00b",
    "<|im_end|>",
    "<tool_call>",
    "{",
    "\u2028",
    "e\u0301" * 9,
    "word " * 60,
]
LEAVES: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "maxLength": 3},
    {"type": "string", "enum": ["a", "🙂", ""]},
    {"type": "integer"},
    {"type": "number", "minimum": -1.5, "maximum": 2},
    {"type": "boolean"},
    {"type": "null"},
    {"const": {"a": [1]}},
    {"type": ["string", "null"]},
    {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^[a-c]{1,4}$"},
    {"type": "string", "pattern": "("},
    {"$ref": "#/nowhere"},
    {"type": "nothing"},
    {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    {"not": {}},
    {"type": "object"},
    {"type": "array", "minItems": 3, "maxItems": 2},
    True,  # type: ignore[list-item]
    {},
]


def some_schema(rng: random.Random, depth: int = 2) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(LEAVES)
    if rng.random() < 0.3:
        return {"type": "array", "items": some_schema(rng, depth - 1), "maxItems": rng.randint(0, 4)}
    names = rng.sample(["a", "b", "a b", "", "ü", '"', "type", "x" * 70], rng.randint(0, 4))
    schema: dict[str, Any] = {"type": "object", "properties": {name: some_schema(rng, depth - 1) for name in names}}
    if rng.random() < 0.7:
        schema["required"] = [name for name in names if rng.random() < 0.7]
    if rng.random() < 0.5:
        schema["additionalProperties"] = rng.random() < 0.3
    return schema


def some_messages(rng: random.Random) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        messages.append({"role": rng.choice(["system", "developer"]), "content": rng.choice(TEXTS)})
    for _ in range(rng.randint(1, 3)):
        text: Any = rng.choice(TEXTS)
        if rng.random() < 0.3:
            text = [{"type": "text", "text": rng.choice(TEXTS)} for _ in range(rng.randint(0, 3))]
        messages.append({"role": "user", "content": text})
        if rng.random() < 0.4:
            arguments = rng.choice(['{"a": 1}', "{}", "", "[1]", "{", '{"a": "\\ud800"}', '{"a": 1e999}'])
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
            messages.append({"role": "assistant", "content": rng.choice([None, *TEXTS]), "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": "c1", "content": rng.choice(TEXTS)})
        elif rng.random() < 0.3:
            messages.append({"role": "assistant", "content": rng.choice(TEXTS)})
    return messages


def some_tools(rng: random.Random) -> list[dict[str, Any]]:
    return [
        {"name": name, "description": rng.choice(TEXTS), "parameters": some_schema(rng)}
        for name in rng.sample(["f", "set_alarm", "g-2", "a.b", "x" * 64], rng.randint(1, 3))
    ]


def some_options(rng: random.Random) -> dict[str, Any]:
    choices: dict[str, list[Any]] = {
        "temperature": [0, 0.001, 1, 2],
        "top_p": [0, 1e-12, 0.5, 1],
        "top_k": [0, 1, 10**9],
        "min_p": [0, 0.5, 1],
        "repeat_penalty": [0.01, 1.1, 100],
        "frequency_penalty": [-2, 2],
        "presence_penalty": [-2, 2],
        "logit_bias": [{}, {"5": -100}, {"5": 100, "6": 100}, {str(i): -100 for i in range(4000)}],
        "seed": [0, -1, 2**63, 2**64 - 1],
        "stop": ["a", ["\n", "e"], [], ["\ud83d"]],
        "user": ["me", "", "🙂"],
        "stream": [True, False],
    }
    picked = rng.sample(sorted(choices), rng.randint(0, 7))
    options = {name: rng.choice(choices[name]) for name in picked}
    if options.get("stream"):
        options["stream_options"] = {"include_usage": rng.random() < 0.5}
    return options


def some_request(number: int) -> tuple[str, dict[str, Any]]:
    """Path and body of the request of that number."""
    rng = random.Random(number)
    path = rng.choice(["chat/completions", "chat/completions", "completions", "responses", "embeddings"])
    if path == "embeddings":
        return path, {"input": rng.choice([*TEXTS, TEXTS, [1, 2], [[3], [4] * 300]]), "encoding_format": "float"}
    body = some_options(rng)
    if path == "completions":
        prompt = rng.choice([*TEXTS, TEXTS[2:5], [5, 6], [[5], [6] * 200]])
        more = rng.choice([{}, {"echo": True}, {"logprobs": 5}, {"n": 2}])
        return path, {**body, "prompt": prompt, "max_tokens": rng.randint(1, 12), **more}
    tools = some_tools(rng) if rng.random() < 0.4 else []
    choice: Any = rng.choice([None, "auto", "none", "required"]) if tools else None
    schema = {"name": "x", "schema": some_schema(rng), "strict": rng.random() < 0.5}
    formats: list[Any] = [None, {"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}]
    kind = rng.choice(formats)
    body |= {"parallel_tool_calls": rng.random() < 0.5}
    if path == "responses":
        body["max_output_tokens"] = rng.randint(1, 30)
        body |= {"input": rng.choice(TEXTS), "tools": [{"type": "function", **tool} for tool in tools]}
        body |= {
            "tool_choice": choice,
            "text": {"format": kind and {**kind, **(schema if len(kind["type"]) > 10 else {})}},
        }
        body.pop("stream_options", None)
        return path, body
    body["max_tokens"] = rng.randint(1, 30)
    if kind and kind["type"] == "json_schema":
        kind = {**kind, "json_schema": schema}
    if rng.random() < 0.3:
        body |= {"logprobs": True, "top_logprobs": rng.randint(0, 20)}
    body |= {"messages": some_messages(rng), "tools": [{"type": "function", "function": tool} for tool in tools]}
    return path, {**body, "tool_choice": choice, "response_format": kind, "n": rng.choice([1, 1, 2])}


def ask(client: httpx.Client, path: str, body: dict[str, Any]) -> int:
    """The status; an answer must be whole, and a stream end as streams do."""
    content = json.dumps(body).encode()
    response = client.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        found = response.json()
        assert response.status_code == 200 or set(found) == {"error"}
        return response.status_code
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    last = lines.pop() if path != "responses" else "[DONE]"
    assert last == "[DONE]", response.text[-600:]
    for line in lines:
        event = json.loads(line)
        assert "error" not in event or event["error"] is None, line
        assert event.get("type") != "error", line
    return response.status_code


def test_options_in_every_company(url: str) -> None:
    statuses = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(N):
            path, body = some_request(number)
            try:
                statuses.append(ask(client, path, body))
            except Exception as error:
                error.add_note(f"request {number}: POST /v1/{path} {json.dumps(body)[:3000]}")
                raise
    assert statuses.count(200) > N / 3
    assert 400 in statuses


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", ["string", "null"]]),
    "enum": st.lists(VALUES, max_size=3),
    "const": VALUES,
    "minimum": st.integers(-5, 5) | st.floats(allow_nan=False),
    "maxLength": st.integers(0, 9),
    "minItems": st.integers(0, 3),
    "pattern": st.text(max_size=5) | st.from_regex(r"[a-c(){}+*|.?^$]{0,6}", fullmatch=True),
    "format": st.sampled_from(["date", "uuid", "email", "none of them"]),
    "required": st.lists(st.text(max_size=3), max_size=3),
    "additionalProperties": st.booleans(),
}
SCHEMAS = st.recursive(
    st.fixed_dictionaries({}, optional=KEYWORDS) | VALUES,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array"])},
        optional={
            **{name: values for name, values in KEYWORDS.items() if name != "type"},
            "properties": st.dictionaries(st.text(max_size=3), inner, max_size=3),
            "items": inner,
            "anyOf": st.lists(inner, max_size=3),
            "$ref": st.sampled_from(["#", "#/$defs/a", "http://127.0.0.1:1/x"]),
            "$defs": st.dictionaries(st.just("a"), inner),
        },
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("place", ["tools", "response_format"])
def test_schemas_that_nobody_would_write(url: str, place: str) -> None:
    @settings(
        max_examples=max(15, N // 4),
        deadline=None,
        derandomize=N < 100,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(schema=SCHEMAS, seed=st.integers(0, 3))
    def check(schema: Any, seed: int) -> None:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "seed": seed}
        if place == "tools":
            body |= {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
            body |= {"tool_choice": "required"}
        else:
            body |= {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
        ask(client, "chat/completions", body)

    with httpx.Client(base_url=url, timeout=60) as client:
        check()
