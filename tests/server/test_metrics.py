"""GET /metrics: its numbers are those of the requests that were made."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import live
from prometheus_client.parser import text_string_to_metric_families

import ingle
from ingle.engine.model import Model
from ingle.engine.scheduler import Scheduler
from ingle.engine.window import WindowStats
from ingle.server.app import create_app
from ingle.server.guard import Guard
from ingle.server.metrics import _of_window
from ingle.server.served import Served
from ingle.server.settings import Settings
from serving import Serving, serving, until

Numbers = dict[str, float]
STORY = [{"role": "user", "content": "Tell me a story about a cat."}]
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def numbers(url: str) -> Numbers:
    """Every sample of the page by its name and, behind it, the values of its labels."""
    response = httpx.get(f"{url}/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: Numbers = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            name = " ".join([sample.name, *sample.labels.values()])
            assert name not in found, "a sample comes once"
            found[name] = sample.value
    return found


class Since:
    """What changes in the numbers of a server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = numbers(url)

    def __call__(self) -> Numbers:
        after = numbers(self._url)
        return {name: value - self._before.get(name, 0) for name, value in after.items()}


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Serving]:
    with serving(model, "tiny") as server:
        yield server


def ask(server: Serving, path: str = "chat/completions", **body: Any) -> dict[str, Any]:
    if path == "chat/completions":
        body = {"messages": STORY, "max_tokens": 8, **body}
    response = httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_tokens_and_times_are_those_that_clients_are_told(server: Serving) -> None:
    since = Since(server.url)
    told = [
        ask(server),
        ask(server, n=2, seed=3),
        ask(server, "completions", prompt=["Once upon", "a time"], max_tokens=5),
        ask(server, max_tokens=1),
    ]
    with httpx.stream(
        "POST",
        f"{server.url}/v1/chat/completions",
        json={"messages": STORY, "max_tokens": 6, "stream": True, "temperature": 0},
    ) as response:
        n_streamed = sum('"finish_reason":null' in line and '"role"' not in line for line in response.iter_lines()) + 1
    found = since()
    n_answers = 1 + 2 + 2 + 1 + 1
    n_said = sum(one["usage"]["completion_tokens"] for one in told) + 6
    assert n_streamed <= 6
    assert found["ingle_completion_tokens_total"] == n_said
    assert found["ingle_time_to_first_token_seconds_count"] == n_answers
    assert found["ingle_queue_seconds_count"] == n_answers
    assert found["ingle_inter_token_latency_seconds_count"] == n_said - n_answers
    reasons = ("stop", "length", "eos")
    assert sum(found.get(f"ingle_answers_total {reason}", 0) for reason in reasons) == n_answers
    assert found["ingle_http_requests_total /v1/chat/completions 200"] == 4
    assert found["ingle_http_requests_total /v1/completions 200"] == 1
    assert found["ingle_http_request_seconds_count /v1/chat/completions"] == 4
    assert 0 < found["ingle_busy_seconds_total"] < 60
    # n answers to one prompt are n sequences, of which each has the prompt
    assert found["ingle_prompt_tokens_total"] >= sum(one["usage"]["prompt_tokens"] for one in told)
    assert found["ingle_steps_total"] >= 8
    assert found["ingle_rows_total"] >= n_said - n_answers


def test_the_time_to_the_first_token_is_the_one_that_the_client_is_told(server: Serving) -> None:
    since = Since(server.url)
    timings = [ask(server)["timings"] for _ in range(3)]
    found = since()
    assert found["ingle_time_to_first_token_seconds_sum"] == pytest.approx(sum(one["ttft_s"] for one in timings))
    decode_s = sum(one["decode_s"] for one in timings)
    assert found["ingle_inter_token_latency_seconds_sum"] == pytest.approx(decode_s, rel=0.01)
    assert found["ingle_queue_seconds_sum"] < found["ingle_time_to_first_token_seconds_sum"]


def test_what_the_cache_had_is_counted(server: Serving) -> None:
    unseen = [{"role": "user", "content": "What do seven owls count before noon on the old harbour wall?"}]
    since = Since(server.url)
    first = ask(server, messages=unseen)["usage"]
    before = since()
    second = ask(server, messages=unseen)["usage"]
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert cached == second["prompt_tokens"] - 1
    found = since()
    assert found["ingle_prompt_tokens_total"] == first["prompt_tokens"] + second["prompt_tokens"]
    assert found["ingle_cached_tokens_total"] - before["ingle_cached_tokens_total"] == cached
    assert found["ingle_prefix_cache_hits_total"] - before["ingle_prefix_cache_hits_total"] == 1


def test_embeddings_are_requests_and_prompt_tokens(server: Serving) -> None:
    since = Since(server.url)
    usage = ask(server, "embeddings", input=["a cat", "a dog"])["usage"]
    found = since()
    assert found["ingle_http_requests_total /v1/embeddings 200"] == 1
    assert found["ingle_prompt_tokens_total"] == usage["prompt_tokens"]
    assert found["ingle_completion_tokens_total"] == 0


def test_refusals_and_what_leads_nowhere(server: Serving) -> None:
    since = Since(server.url)
    chat = f"{server.url}/v1/chat/completions"
    assert httpx.post(chat, json={"messages": []}).status_code == 400
    assert httpx.post(chat, json={"messages": STORY, "model": "x"}).status_code == 404
    assert httpx.get(chat).status_code == 405
    assert httpx.request("BREW", f'{server.url}/v1/models/"').status_code == 405
    for path in ("/nothing", "/v1/chat/completions/x", '/"} 1'):
        assert httpx.get(server.url + path).status_code == 404
    assert httpx.get(f"{server.url}/v1/models/tiny").status_code == 200
    found = since()
    requests = {name: n for name, n in found.items() if name.startswith("ingle_http_requests_total") and n}
    assert requests == {
        "ingle_http_requests_total /v1/chat/completions 400": 1,
        "ingle_http_requests_total /v1/chat/completions 404": 1,
        "ingle_http_requests_total /v1/chat/completions 405": 1,
        "ingle_http_requests_total /v1/models/{model} 405": 1,
        "ingle_http_requests_total /v1/models/{model} 200": 1,
        "ingle_http_requests_total other 404": 3,
        "ingle_http_requests_total /metrics 200": 1,
    }


def test_what_nobody_foresaw_is_counted_as_500(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Served) -> dict[str, Any]:
        raise KeyError("a secret")

    monkeypatch.setattr(Served, "describe", fail)
    since = Since(server.url)
    assert httpx.get(f"{server.url}/v1/models").status_code == 500
    assert since()["ingle_http_requests_total /v1/models 500"] == 1


def test_who_waits_who_leaves_and_who_finds_the_queue_full(endless: Callable[..., Serving]) -> None:
    server = endless(max_queue=2)
    chat = f"{server.url}/v1/chat/completions"
    body = {"messages": STORY, "stream": True}
    with ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(httpx.stream("POST", chat, json=body)).status_code == 200
        until(lambda: server.scheduler.load.n_running == 1)
        assert httpx.post(chat, json=body).status_code == 429
        now = numbers(server.url)
        assert (now["ingle_slots"], now["ingle_running"], now["ingle_queued"]) == (1, 1, 2)
        assert now["ingle_queue_full_total"] == 1
        assert now["ingle_http_requests_total /v1/chat/completions 429"] == 1
        assert now["ingle_http_requests_in_progress"] == 4
    until(lambda: numbers(server.url)["ingle_http_requests_in_progress"] == 1)
    after = numbers(server.url)
    assert (after["ingle_running"], after["ingle_queued"]) == (0, 0)
    assert after["ingle_answers_total cancelled"] == 3
    assert after["ingle_http_requests_total /v1/chat/completions 200"] == 3


def test_histograms_add_up(server: Serving) -> None:
    ask(server)
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        if family.type != "histogram":
            continue
        buckets: dict[str, list[tuple[float, float]]] = {}
        counts = {}
        for sample in family.samples:
            label = sample.labels.get("endpoint", "")
            if sample.name.endswith("_bucket"):
                buckets.setdefault(label, []).append((float(sample.labels["le"]), sample.value))
            elif sample.name.endswith("_count"):
                counts[label] = sample.value
        assert counts, family.name
        for label, found in buckets.items():
            bounds, values = zip(*found, strict=True)
            assert list(bounds) == sorted(bounds)
            assert (bounds[0], bounds[-1]) == (0.005, float("inf"))
            assert list(values) == sorted(values)
            assert values[-1] == counts[label]


def test_memory_and_what_is_served(server: Serving, model: Model) -> None:
    now = numbers(server.url)
    assert now[f"ingle_build_info {model.backend} tiny {ingle.__version__}"] == 1
    assert now["ingle_weights_bytes"] == model.weights_bytes > model.spec.n_vocab * model.spec.n_embd / 8
    assert now["ingle_kv_cache_bytes"] == model.cache_bytes >= model.spec.kv_bytes_per_token() * model.context * 4
    assert now["ingle_peak_memory_bytes"] >= now["ingle_weights_bytes"] + now["ingle_kv_cache_bytes"] / 100


@pytest.mark.skipif(sys.platform != "linux", reason="missing: /proc of Linux, which tells a process's memory")
def test_memory_of_the_process(server: Serving, model: Model) -> None:
    held = numbers(server.url)["process_resident_memory_bytes"]
    assert held > model.weights_bytes
    assert held == pytest.approx(httpx.get(f"{server.url}/health").json()["memory_bytes"], rel=0.2)


def test_applications_have_numbers_of_their_own(server: Serving, model: Model) -> None:
    ask(server)
    with serving(model, "another") as other:
        now = numbers(other.url)
    assert now["ingle_completion_tokens_total"] == 0
    assert "ingle_http_requests_total /v1/chat/completions 200" not in now


def test_a_key_is_needed_and_refusals_are_counted(model: Model) -> None:
    with Scheduler(model) as scheduler:
        app = create_app(Served(model, scheduler, "tiny"))
        settings = Settings(keys=("sk-" + "a" * 30,))
        with live(Guard(app, settings, on_refused=app.state.metrics.refused), settings) as server:
            assert server.ask(path="/metrics").status == 401
            assert server.ask(path="/metrics", authorization="Bearer wrong").status == 401
            assert server.ask(path="/metrics", host="evil.example").status == 403
            page = server.ask(path="/metrics", authorization=f"Bearer {settings.keys[0]}")
    assert page.status == 200
    assert b'ingle_refused_requests_total{code="invalid_api_key"} 2.0' in page.body
    assert b'ingle_refused_requests_total{code="host_not_allowed"} 1.0' in page.body
    assert b'endpoint="/metrics",status="401"' not in page.body


def test_half_a_header_is_no_request(server: Serving) -> None:
    since = Since(server.url)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x")
    assert since()["ingle_http_requests_in_progress"] == 0


def test_the_documents_name_every_metric(server: Serving) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        if family.name.startswith("ingle_"):
            assert f"`{family.name}" in page, f"docs/serve.md does not have {family.name}"


def test_the_documents_name_the_metrics_of_a_window_too() -> None:
    """Which only a model has that memory does not hold; tests/cli/test_cli_memory.py asks for them."""
    page = PAGE.read_text(encoding="utf-8")
    stats = WindowStats(1, 2, 3, 4, 5, 6.0, 7.0, 8, 9, 10)
    families = list(_of_window(stats))
    for family in families:
        (sample,) = family.samples
        assert f"`{sample.name}`" in page
    values = [sample.value for family in families for sample in family.samples]
    assert values == [1, 2, 3, 4, 5, 6.0, 7.0, 9, 10]
