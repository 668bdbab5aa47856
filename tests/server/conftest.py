"""Servers to talk to: one with the bundled model, ones whose model says what a test wants, and the page's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from page_browser import Visit, chromium, visits
from page_stub import Stub, stub_app

import ingle
import toys
from ingle.engine.model import Model
from ingle.train.data.conversation import CHAT_TEMPLATE
from serving import Serving, running, serving

END = toys.vocabulary().index("<|im_end|>")


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    """The bundled model."""
    with ingle.load(threads=1, n_slots=4) as model:
        yield model


@pytest.fixture(scope="session")
def url(model: Model) -> Iterator[str]:
    """The address of a server of the bundled model, which it calls "tiny"."""
    with serving(model, "tiny") as server:
        yield server.url


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[OpenAI]:
    """The official client at that server. It does not try again: what fails, fails."""
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Callable[..., OpenAI]]:
    """A client of a server whose model says these answers, the n-th to a conversation with n - 1 of them."""
    path = toys.toy_gguf(tmp_path / "toy.gguf", template=CHAT_TEMPLATE, n_context=4096)
    with ExitStack() as stack:

        def script(*texts: str) -> OpenAI:
            tokenizer = toys.scripted_model(path, toys.hashed(9))[0].tokenizer
            model, _ = toys.scripted_model(path, toys.answers(tokenizer, texts, END), n_slots=4)
            stack.enter_context(model)
            server = stack.enter_context(serving(model, "toy"))
            return stack.enter_context(OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60))

        yield script


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """A server whose model never ends, at some 200 tokens a second, and calls `on_token` with how many there are."""
    path = toys.toy_gguf(tmp_path / "toy.gguf", template=CHAT_TEMPLATE, n_context=4096)
    letter = toys.vocabulary().index("a")
    with ExitStack() as stack:

        def serve(
            on_token: Callable[[int], None] = lambda n: None, *, n_slots: int = 1, max_queue: int = 64
        ) -> Serving:
            def next_token(tokens: list[int]) -> int:
                time.sleep(0.005)
                on_token(len(tokens))
                return letter

            model, _ = toys.scripted_model(path, next_token, n_slots=n_slots)
            stack.enter_context(model)
            return stack.enter_context(serving(model, "toy", max_queue=max_queue))

        yield serve


@pytest.fixture(scope="module")  # not longer: while Playwright runs, its thread can have no other event loop
def browser() -> Iterator[Any]:
    """Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def stubs() -> Iterator[tuple[str, list[Stub]]]:
    """The address of the chat page, and the stubs behind it: the last of them answers."""
    stubs = [Stub()]
    with running(stub_app(lambda: stubs[-1])) as url:
        yield url, stubs


@pytest.fixture
def stub(stubs: tuple[str, list[Stub]]) -> Stub:
    """What answers the page in this test."""
    stubs[1].append(Stub())
    return stubs[1][-1]


@pytest.fixture
def visit(browser: Any, stubs: tuple[str, list[Stub]], stub: Stub) -> Iterator[Callable[..., Visit]]:
    """Opens the chat page in a fresh profile."""
    with visits(browser, stubs[0]) as begin:
        yield begin
