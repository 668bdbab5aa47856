"""The official Python client where it is more than a request: keys, the asynchronous one, leaving, trying again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from live import live
from openai import AsyncOpenAI, OpenAI

from ingle.engine.model import Model
from ingle.engine.scheduler import Scheduler
from ingle.server.app import create_app
from ingle.server.guard import Guard
from ingle.server.served import Served
from ingle.server.settings import Settings
from serving import Serving, until

KEY = "sk-" + "k" * 40
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def test_a_key_is_needed_where_there_is_one(model: Model) -> None:
    with Scheduler(model) as scheduler:
        settings = Settings(keys=(KEY,))
        with live(Guard(create_app(Served(model, scheduler, "tiny")), settings), settings) as server:
            url = f"http://127.0.0.1:{server.port}/v1"
            with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
                assert client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2).choices
            with OpenAI(base_url=url, api_key="another", max_retries=0) as client:
                with pytest.raises(openai.AuthenticationError) as caught:
                    client.chat.completions.create(model="tiny", messages=HELLO)
                assert caught.value.code == "invalid_api_key"
                with pytest.raises(openai.AuthenticationError):
                    client.models.list()


def test_many_streams_of_the_asynchronous_client(url: str, client: OpenAI) -> None:
    def asked(number: int) -> Any:
        messages = [{"role": "user", "content": f"Tell me about the number {number}."}]
        return {"model": "tiny", "messages": messages, "max_tokens": 12, "temperature": 0}

    async def read(asking: AsyncOpenAI, number: int) -> str:
        stream = await asking.chat.completions.create(**asked(number), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def read_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as asking:
            return await asyncio.gather(*(read(asking, number) for number in range(8)))

    alone = [client.chat.completions.create(**asked(number)).choices[0].message.content for number in range(8)]
    assert asyncio.run(read_all()) == alone


@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
def test_a_stream_that_is_closed_ends_its_answer(endless: Callable[..., Serving], kind: str) -> None:
    server = endless()
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream: Any
        if kind == "chat":
            stream = client.chat.completions.create(model="toy", messages=HELLO, stream=True)
        elif kind == "completions":
            stream = client.completions.create(model="toy", prompt="hello", max_tokens=4000, stream=True)
        else:
            stream = client.responses.create(model="toy", input="hello", stream=True)
        for _ in range(4):
            next(stream)
        assert server.n_jobs == 1
        stream.close()
        until(lambda: server.n_jobs == 0)


def test_an_asynchronous_request_that_is_cancelled_ends_its_answer(endless: Callable[..., Serving]) -> None:
    server = endless()

    async def give_up() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            asking = asyncio.create_task(client.chat.completions.create(model="toy", messages=HELLO))
            while not server.n_jobs:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()

    asyncio.run(give_up())
    until(lambda: server.n_jobs == 0)


def test_who_is_told_to_wait_tries_again_and_is_answered(endless: Callable[..., Serving]) -> None:
    """The client obeys Retry-After, and by then there is room."""
    server = endless(max_queue=1)
    url = f"{server.url}/v1/chat/completions"
    refused = threading.Event()

    def note(response: httpx.Response) -> None:
        if response.status_code == 429:
            refused.set()

    with ExitStack() as stack:
        crowd = stack.enter_context(ExitStack())
        for _ in range(2):  # one has the slot, one waits
            crowd.enter_context(httpx.stream("POST", url, json={"messages": HELLO, "stream": True}))
        until(lambda: server.n_jobs == 2)
        threading.Thread(target=lambda: (refused.wait(20), crowd.close())).start()
        http = stack.enter_context(httpx.Client(event_hooks={"response": [note]}))
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=4, http_client=http)
        answer = client.chat.completions.create(model="toy", messages=HELLO, max_tokens=2)
    assert refused.is_set()
    assert answer.choices[0].message.content == "aa"
