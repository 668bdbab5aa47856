"""Requests made from our own OpenAPI page, sound and unsound: none is answered with 500."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

EXAMPLES = 15  # of each endpoint
BOUNDS = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4}


_OF_PATH = {
    ("max_tokens", "/v1/completions"),
    ("max_completion_tokens", "/v1/chat/completions"),
    ("max_output_tokens", "/v1/responses"),
}


def test_no_request_is_answered_with_500(url: str) -> None:
    api = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried = set()
    for found in api.get_all_operations():
        operation = found.ok()
        tried.add(operation.path)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answered(case)

        ask()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/health"} <= tried


def answered(case: Any) -> None:
    """Ask, and expect an answer or a refusal in the one shape."""
    if isinstance(case.body, dict):
        for name, most in BOUNDS.items():  # long answers would find nothing more
            if name in case.body or (name, case.path) in _OF_PATH:
                case.body.setdefault(name, most)
                if isinstance(case.body[name], int) and case.body[name] > most:
                    case.body[name] = most
        if case.body.get("n", 1) not in range(1, 4):
            case.body.pop("n")
    response = case.call(timeout=60)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()) == {"error"}
