"""Clients that go away, ask too much, or meet a model that fails: nothing goes on for nobody, and everyone is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from ingle.errors import BackendError
from serving import Serving, until

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
LONGEST = 4000  # tokens that an answer would have if nothing ended it


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {**CHAT, "n": 2}),
        ("completions", {"prompt": ["a", "b"], "max_tokens": LONGEST}),
        ("responses", {"input": "hello"}),
    ],
)
def test_a_client_that_leaves_a_stream_ends_its_answers(
    endless: Callable[..., Serving], path: str, body: dict[str, Any]
) -> None:
    server = endless(n_slots=2)
    with httpx.stream("POST", f"{server.url}/v1/{path}", json={**body, "stream": True}) as response:
        lines = response.iter_lines()
        for _ in range(8):
            next(lines)
        assert server.n_jobs > 0
    until(lambda: server.n_jobs == 0)
    assert server.scheduler.load.completion_tokens < LONGEST / 4


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "n": 3}])
def test_a_client_that_does_not_wait_ends_its_answers(endless: Callable[..., Serving], body: dict[str, Any]) -> None:
    server = endless()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.5)
    until(lambda: server.n_jobs == 0)
    assert server.scheduler.load.completion_tokens < LONGEST / 4


def test_others_go_on_when_one_leaves(endless: Callable[..., Serving]) -> None:
    server = endless(n_slots=2)
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True}) as stays:
        lines = stays.iter_lines()
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True}) as leaves:
            others = leaves.iter_lines()  # kept: dropping the iterator closes the connection
            next(others)
            until(lambda: server.scheduler.load.n_running == 2)
        until(lambda: server.n_jobs == 1)
        for _ in range(20):
            next(lines)


def test_more_than_the_queue_holds_is_refused_with_a_time_to_come_again(endless: Callable[..., Serving]) -> None:
    server = endless(max_queue=1)
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json={**CHAT, "stream": True}), ExitStack() as stack:
        until(lambda: server.scheduler.load.n_running == 1)
        waits = stack.enter_context(httpx.stream("POST", url, json={**CHAT, "stream": True}))
        assert waits.status_code == 200
        refused = httpx.post(url, json=CHAT)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "server_busy"
        with (
            OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.RateLimitError),
        ):
            client.chat.completions.create(model="toy", **CHAT)
    until(lambda: server.n_jobs == 0)


def test_of_several_answers_none_is_made_where_one_is_refused(endless: Callable[..., Serving]) -> None:
    server = endless(max_queue=1)
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "n": 4})
    assert refused.status_code == 429
    until(lambda: server.n_jobs == 0)


def _fails_at(n_tokens: int) -> Callable[[int], None]:
    def on_token(n: int) -> None:
        if n >= n_tokens:
            raise BackendError("The model has failed, as the test wants it; ask another.")

    return on_token


def test_a_model_that_fails_in_a_stream_is_told_of_in_it(endless: Callable[..., Serving]) -> None:
    server = endless(_fails_at(60))
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        said = ""
        with pytest.raises(openai.APIError, match="as the test wants it"):  # noqa: PT012
            for chunk in client.chat.completions.create(model="toy", **CHAT, stream=True):
                said += chunk.choices[0].delta.content or ""
        assert said.startswith("aaa")
        events = list(client.responses.create(model="toy", input="hello", stream=True))
    assert events[-1].type == "error"
    assert "as the test wants it" in events[-1].message


def test_a_model_that_fails_gives_status_500_and_the_next_is_answered(endless: Callable[..., Serving]) -> None:
    server = endless(_fails_at(60))
    for _ in range(2):
        response = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
    assert httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "max_tokens": 2}).status_code == 200


def test_answers_that_a_stopping_server_cuts_off_say_so(endless: Callable[..., Serving]) -> None:
    server = endless()
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        server.scheduler.close(0)
        *_, last = (line for line in lines if line.startswith("data: "))
    assert "error" in json.loads(last.removeprefix("data: "))
    refused = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
    assert refused.status_code == 503
