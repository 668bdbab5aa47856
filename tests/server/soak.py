"""A crowd of clients: requests of every kind, made from their number, and clients that leave in the middle of them."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 120.0
LEAVE = 0.2  # of all
TOOL = {
    "type": "function",
    "function": {
        "name": "set_light",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string", "enum": ["kitchen", "hall"]}, "on": {"type": "boolean"}},
            "required": ["room", "on"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
SYSTEM = {"role": "system", "content": "You tell short stories to children. Be kind, and end well."}


@dataclass(frozen=True)
class Ask:
    """A request, the status that it must have, and what its answer must be: called with the JSON, or with that of
    each event of a stream."""

    kind: str
    path: str
    body: Any
    status: int = 200
    check: Callable[[Any], None] = lambda answer: None
    headers: dict[str, str] = field(default_factory=dict)


def ask_of(number: int) -> Ask:
    """The request of that number: the same every time."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    return kind(rng)


def _messages(rng: random.Random) -> list[dict[str, str]]:
    words = rng.choices(["cat", "boat", "moon", "bread", "rain", "hill", "Grüße", "世界", "🙂"], k=rng.randint(1, 40))
    return [SYSTEM, {"role": "user", "content": f"Tell me about {' '.join(words)}."}]


def _chat(rng: random.Random) -> Ask:
    body = {"messages": _messages(rng), "max_tokens": rng.randint(1, 24), "temperature": rng.choice([0, 1.0])}
    return Ask("chat", "chat/completions", body, check=_has_text)


def _chat_stream(rng: random.Random) -> Ask:
    body = _chat(rng).body | {"stream": True, "stream_options": {"include_usage": True}, "n": rng.choice([1, 1, 3])}
    return Ask("chat stream", "chat/completions", body, check=_ends(body["n"]))


def _text(rng: random.Random) -> Ask:
    body = {
        "prompt": ["Once upon a time", "The cat"],
        "n": 2,
        "max_tokens": 8,
        "logprobs": 2,
        "seed": rng.randint(0, 9),
    }
    return Ask("completions", "completions", body, check=_has_choices(4))


def _text_stream(rng: random.Random) -> Ask:
    body = {"prompt": "Once there was", "max_tokens": rng.randint(1, 30), "stop": ["."], "stream": True}
    return Ask("completions stream", "completions", body, check=_ends(1))


def _embeddings(rng: random.Random) -> Ask:
    n = rng.randint(1, 4)
    return Ask("embeddings", "embeddings", {"input": ["a cat sat " * rng.randint(1, 20)] * n}, check=_has_vectors(n))


def _tools(rng: random.Random) -> Ask:
    body = {"messages": _messages(rng), "tools": [TOOL], "tool_choice": "required", "temperature": 1.5}
    body |= {"max_tokens": 120, "parallel_tool_calls": False}
    return Ask("tools", "chat/completions", body, check=_has_call)


def _schema(rng: random.Random) -> Ask:
    body = {"messages": _messages(rng), "response_format": FORMAT, "max_tokens": 80, "temperature": 1.0}
    return Ask("json_schema", "chat/completions", body, check=_follows)


def _response(rng: random.Random) -> Ask:
    body = {"input": "hello", "instructions": "Be short.", "max_output_tokens": 16, "stream": rng.random() < 0.5}
    return Ask("responses", "responses", body)


def _bad(rng: random.Random) -> Ask:
    chat, messages = "chat/completions", _messages(rng)
    return rng.choice(
        [
            Ask("bad", chat, {"messages": messages, "temperature": 9}, 400),
            Ask("bad", chat, {"messages": messages, "model": "gpt"}, 404),
            Ask("bad", chat, {"messages": [{"role": "user", "content": "word " * 5000}]}, 400),
            Ask("bad", chat, b'{"messages": [', 400),
            Ask("bad", chat, {"messages": messages, "tool_choice": "required"}, 400),
            Ask("bad", "completions", {"prompt": [[999999999]], "stream": True}, 400),
            Ask("bad", "embeddings", {"input": ""}, 400),
            Ask("bad", "nothing", {}, 404),
            Ask("bad", chat, {"messages": messages}, 403, headers={"origin": "https://evil.example"}),
            Ask(
                "bad",
                chat,
                {"messages": messages, "response_format": _format({"type": "string", "pattern": "(?=a)b"})},
                400,
            ),
        ]
    )


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


KINDS = (_chat, _chat_stream, _text, _text_stream, _embeddings, _tools, _schema, _response, _bad, _chat_stream)


def _has_text(answer: Any) -> None:
    (choice,) = answer["choices"]
    assert choice["finish_reason"] in ("stop", "length")
    assert isinstance(choice["message"]["content"], str)


def _has_choices(n: int) -> Callable[[Any], None]:
    def check(answer: Any) -> None:
        assert [choice["index"] for choice in answer["choices"]] == list(range(n))

    return check


def _ends(n: int) -> Callable[[Any], None]:
    def check(events: Any) -> None:
        ended = [one["index"] for event in events for one in event["choices"] if one["finish_reason"]]
        assert sorted(ended) == list(range(n))

    return check


def _has_vectors(n: int) -> Callable[[Any], None]:
    def check(answer: Any) -> None:
        vectors = [one["embedding"] for one in answer["data"]]
        assert len(vectors) == n
        assert all(abs(sum(value * value for value in vector) - 1) < 1e-3 for vector in vectors)

    return check


def _has_call(answer: Any) -> None:
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["room"] in ("kitchen", "hall")
    assert isinstance(arguments["on"], bool)


def _follows(answer: Any) -> None:
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert set(value) == {"name", "age"}
    assert 0 <= value["age"] <= 99


def stay(client: httpx.Client, ask: Ask) -> str:
    """Ask, and read all of the answer, which must be right. Gives its kind."""
    content = ask.body if isinstance(ask.body, bytes) else json.dumps(ask.body).encode()
    headers = {"content-type": "application/json", **ask.headers}
    with client.stream("POST", f"v1/{ask.path}", content=content, headers=headers) as response:
        text = response.read().decode()
    assert response.status_code == ask.status, (ask, text)
    if response.status_code != 200:
        assert set(json.loads(text)) == {"error"}
    elif response.headers["content-type"].startswith("text/event-stream"):
        data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        if ask.path == "responses":
            assert json.loads(data[-1])["type"] in ("response.completed", "response.incomplete"), data[-1]
        else:
            assert data.pop() == "[DONE]", text
            ask.check([json.loads(one) for one in data])
    else:
        ask.check(json.loads(text))
    return ask.kind


def leave(port: int, ask: Ask, rng: random.Random) -> str:
    """Ask for something long, and be gone before it is there: in the body, before the answer, or in it."""
    body = ask.body if isinstance(ask.body, dict) else {}
    longest = {"responses": "max_output_tokens", "embeddings": "user"}.get(ask.path, "max_tokens")
    body = {**body, longest: "me" if longest == "user" else 1500, "stop": None, "tools": None, "tool_choice": None}
    if ask.path == "embeddings":
        body = {"input": ["a cat sat " * 90] * 16}
    content = json.dumps(body).encode()
    head = f"POST /v1/{ask.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode())
        where = rng.choice(["in the body", "before the answer", "in the answer", "in the answer"])
        connection.sendall(content[:-1] if where == "in the body" else content)
        if where == "in the answer" and body.get("stream"):
            for _ in range(rng.randint(1, 8)):
                if not connection.recv(256):
                    break
        else:
            time.sleep(rng.random() * 0.05)
        if rng.random() < 0.5:  # without a farewell
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return f"left {where}"


def crowd(port: int, numbers: Sequence[int], n_clients: int = 12) -> dict[str, int]:
    """Make the requests of these numbers from so many clients at once. Gives how many of each kind there were."""

    def serve(mine: Sequence[int]) -> list[str]:
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=TIMEOUT_S) as client:
            kinds = []
            for number in mine:
                rng = random.Random(-number)
                leaves = rng.random() < LEAVE
                kinds.append(leave(port, ask_of(number), rng) if leaves else stay(client, ask_of(number)))
            return kinds

    with ThreadPoolExecutor(n_clients) as pool:
        found = [kind for kinds in pool.map(serve, [numbers[i::n_clients] for i in range(n_clients)]) for kind in kinds]
    return {kind: found.count(kind) for kind in sorted(set(found))}
