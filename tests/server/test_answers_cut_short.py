"""A model whose file cannot be read any more: streams end with an error, and the server goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

import toys
from ingle.errors import GGUFError
from ingle.train.data.conversation import CHAT_TEMPLATE
from serving import serving

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
LETTER = toys.vocabulary().index("a")
TOLD = "The model's file cannot be read as it was opened; the server's log says more."


class Failing:
    """A script that says "a", and fails once when `left` tokens were said."""

    left = -1

    def __call__(self, tokens: list[int]) -> int:
        self.left -= 1
        if self.left == -1:
            raise GGUFError("/home/somebody/model.gguf changed while it was read: download it again.")
        return LETTER


@pytest.fixture
def script() -> Failing:
    return Failing()


@pytest.fixture
def url(script: Failing, tmp_path: Path) -> Iterator[str]:
    path = toys.toy_gguf(tmp_path / "toy.gguf", template=CHAT_TEMPLATE, n_context=4096)
    with ExitStack() as stack:
        model, _ = toys.scripted_model(path, script, n_slots=2)
        stack.enter_context(model)
        yield stack.enter_context(serving(model, "toy")).url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: OpenAI, n: int) -> str:
    answer = client.chat.completions.create(model="toy", messages=HELLO, max_tokens=n)
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("n_good", [0, 1, 7])
def test_a_stream_keeps_what_was_said_and_tells_the_error(
    client: OpenAI, script: Failing, n_good: int, caplog: pytest.LogCaptureFixture
) -> None:
    script.left = n_good
    said: list[str] = []

    def listen() -> None:
        for chunk in client.chat.completions.create(model="toy", messages=HELLO, max_tokens=50, stream=True):
            said.append(chunk.choices[0].delta.content or "")

    with caplog.at_level(logging.ERROR), pytest.raises(openai.APIError) as raised:
        listen()
    assert "".join(said) == "a" * n_good
    assert (raised.value.message, raised.value.code) == (TOLD, "model_file_failed")
    assert "/home/somebody/model.gguf changed" in caplog.text
    assert ask(client, 3) == "aaa"


def test_the_last_event_is_the_error(url: str, script: Failing) -> None:
    """Not [DONE], which is for answers that came to their end."""
    script.left = 2
    body = {"messages": HELLO, "max_tokens": 50, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert json.loads(events[-1]) == {
        "error": {"message": TOLD, "type": "server_error", "param": None, "code": "model_file_failed"}
    }


def test_a_whole_answer_is_an_error(client: OpenAI, script: Failing) -> None:
    script.left = 4
    with pytest.raises(openai.InternalServerError) as raised:
        ask(client, 9)
    assert "somebody" not in str(raised.value)
    assert raised.value.code == "model_file_failed"
    assert ask(client, 3) == "aaa"


def test_responses_tell_it_too(url: str, script: Failing) -> None:
    script.left = 3
    body = {"input": "hello", "max_output_tokens": 50, "stream": True}
    with httpx.stream("POST", f"{url}/v1/responses", json=body, timeout=60) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line[:5] == "data:"]
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == "aaa"
    assert (events[-1]["type"], events[-1]["message"]) == ("error", TOLD)


def test_it_is_counted(url: str, client: OpenAI, script: Failing) -> None:
    script.left = 1
    with pytest.raises(openai.InternalServerError):
        ask(client, 9)
    assert 'ingle_answers_total{reason="failed"} 1.0' in httpx.get(f"{url}/metrics").text
