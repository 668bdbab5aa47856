"""Errors: one shape for all, the field that is wrong by its name, and never a traceback."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response, which has the one shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"].endswith(".")
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "messages[0].role"),
        ({"messages": [*MESSAGES, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "a", "mood": "good"}]}, "messages[0].mood"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream": "yes"}, "stream"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"x": "<|im_start|>"}}, "chat_template_kwargs.x"),
        ({"typo_penalty": 1}, "typo_penalty"),
    ],
)
def test_a_field_that_cannot_be_is_named(url: str, more: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES, **more})
    error = error_of(response, 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_what_changes_nothing_is_ignored(url: str) -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "prompt_cache_key": "x",
        "modalities": ["text"],
        "logit_bias": None,
        "seed": -1,
        "tools": None,
        "stop": None,
        "stream_options": None,
        "anything": None,
    }
    response = httpx.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1, **harmless})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"3", b"null", b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000, b'{"a":' * 5000],
)
def test_a_body_that_is_no_object(url: str, body: bytes) -> None:
    for path in ("chat/completions", "completions", "embeddings", "responses"):
        error_of(httpx.post(f"{url}/v1/{path}", content=body, headers={"Content-Type": "application/json"}), 400)


def test_a_body_that_does_not_say_that_it_is_json(url: str) -> None:
    body = json.dumps({"messages": MESSAGES}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        error = error_of(httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers), 400)
        assert "Content-Type" in error["message"]


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\x00", "\u2028", "<|im_end|>"])
def test_strange_texts_break_nothing(url: str, text: str) -> None:
    for path, body in (
        ("chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 2}),
        ("completions", {"prompt": text, "max_tokens": 2, "echo": True}),
        ("embeddings", {"input": text}),
        ("responses", {"input": text, "instructions": text, "max_output_tokens": 16}),
        ("completions", {"prompt": "a", "model": text}),
        ("completions", {"prompt": "a", text: 1}),
        ("completions", {"prompt": "a", "stop": text, "max_tokens": 1}),
    ):
        content = json.dumps(body).encode()
        response = httpx.post(f"{url}/v1/{path}", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 400, 404), (path, response.text)
        response.json()


def test_other_paths_and_methods(url: str) -> None:
    assert error_of(httpx.get(f"{url}/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(httpx.get(f"{url}/v1/chat/completions"), 405)["code"] == "method_not_allowed"
    assert error_of(httpx.delete(f"{url}/v1/models"), 405)["code"] == "method_not_allowed"
    asked = {"model": "gpt-x", "messages": MESSAGES}
    assert error_of(httpx.post(f"{url}/v1/chat/completions", json=asked), 404)["code"] == "model_not_found"


def test_what_nobody_foresaw_is_500_and_tells_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingle.server.served import Served

    def fail(self: Served) -> dict[str, Any]:
        raise KeyError("a secret")

    monkeypatch.setattr(Served, "describe", fail)
    error = error_of(httpx.get(f"{url}/v1/models"), 500)
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert "secret" not in json.dumps(error)


def test_the_description_loads_nothing_from_elsewhere(url: str) -> None:
    assert set(httpx.get(f"{url}/openapi.json").json()["paths"]) >= {"/v1/chat/completions", "/v1/responses", "/health"}
    for path in ("/docs", "/redoc"):
        error_of(httpx.get(url + path), 404)
