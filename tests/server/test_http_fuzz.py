"""Requests made from our own OpenAPI page, sound and unsound: none is answered with 500.

INGLE_FUZZ=2000 asks so much of each endpoint, in each of the two ways.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

EXAMPLES = int(os.environ.get("INGLE_FUZZ", "20"))  # of each endpoint, in each way
SHORT = {"/v1/completions": "max_tokens", "/v1/chat/completions": "max_completion_tokens"}
SHORT["/v1/responses"] = "max_output_tokens"
MOST_TOKENS = 4  # long answers would find nothing more


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_answered_with_500(url: str, mode: GenerationMode) -> None:
    api = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried: dict[str, set[int]] = {}
    for found in api.get_all_operations():
        operation = found.ok()
        tried[operation.path] = set()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=EXAMPLES < 100,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            tried[case.path].add(answered(case))

        if mode is GenerationMode.POSITIVE or operation.body:  # nothing that the others take can be wrong
            ask()
    posts = {f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses")}
    assert {*posts, "/health", "/metrics", "/v1/models"} <= set(tried)
    assert all((200 if mode is GenerationMode.POSITIVE else 400) in tried[path] for path in posts), tried


def answered(case: Any) -> int:
    """Ask, and expect an answer or a refusal in the one shape. Gives the status."""
    if isinstance(case.body, dict):
        if isinstance(name := SHORT.get(case.path), str):
            given = case.body.get(name)
            if given is None or (isinstance(given, int) and given > MOST_TOKENS):
                case.body[name] = MOST_TOKENS
        if isinstance(n := case.body.get("n"), int) and 3 < n <= 16:
            case.body["n"] = 3
    response = case.call(timeout=60)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()) == {"error"}
    return int(response.status_code)
