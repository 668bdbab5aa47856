"""GET /metrics: what the server does and how long it takes, in Prometheus' text format.

Nothing here runs in the scheduler's thread: tokens bring the time at which they were there, and are looked at in the
event loop, where answers are read and pages are made. All that is counted is therefore of one thread, without locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from time import perf_counter

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ingle import __version__
from ingle.engine.memory import peak_bytes
from ingle.engine.scheduler import Job
from ingle.engine.token import Token
from ingle.engine.window import WindowStats
from ingle.server.asgi import App, Message, Receive, Scope, Send
from ingle.server.served import Served

__all__ = ["CountRequests", "Metrics", "Watch", "router"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TO_FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
BETWEEN_TOKENS_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 60)
ELSEWHERE = "other"  # any path that leads nowhere: what clients write must not become labels
router = APIRouter()


class _Histogram:
    """How many observations there were up to each bound (seconds)."""

    __slots__ = ("_bounds", "_counts", "_sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> HistogramMetricFamily:
        bounds = map(floatToGoString, (*self._bounds, float("inf")))
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum_s)
        return family


class Metrics(Collector):
    """The numbers of one application, in a registry of its own."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._to_first = _Histogram(TO_FIRST_TOKEN_S)
        self._between = _Histogram(BETWEEN_TOKENS_S)
        self._queued = _Histogram(TO_FIRST_TOKEN_S)
        self._cache_hits = 0
        self._answers: Counter[str] = Counter()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._took: dict[str, _Histogram] = {}
        self._in_progress = 0
        self._refused: Counter[str] = Counter()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # memory, CPU time, open files: on Linux

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def first_token(self, token: Token, job: Job) -> None:
        """An answer has its first token."""
        self._to_first.observe(token.time_s)
        self._cache_hits += token.stats.cached_tokens > 0
        if job.queue_s is not None:
            self._queued.observe(job.queue_s)

    def next_token(self, after_s: float) -> None:
        """An answer has a token, so long after the one before."""
        self._between.observe(after_s)

    def answered(self, reason: str, n: int = 1) -> None:
        """Answers have ended: eos, stop, length, cancelled or failed."""
        self._answers[reason] += n

    def refused(self, code: str) -> None:
        """A request came no further than to the guard. code: of its error, not a client's words."""
        self._refused[code] += 1

    def begin_request(self) -> None:
        """A request has come."""
        self._in_progress += 1

    def end_request(self, endpoint: str, status: int, took_s: float) -> None:
        """It is answered. endpoint: a route's path, not the client's words."""
        self._in_progress -= 1
        self._requests[endpoint, str(status)] += 1
        self._took.setdefault(endpoint, _Histogram(TO_FIRST_TOKEN_S)).observe(took_s)

    def collect(self) -> Iterator[Metric]:
        """What `prometheus_client` asks for, for each page."""
        yield from self._of_server()
        yield from self._of_answers()
        yield from self._of_requests()

    def _of_server(self) -> Iterator[Metric]:
        model, load = self._served.model, self._served.scheduler.load
        about = {"version": __version__, "model": self._served.name, "backend": model.backend}
        yield InfoMetricFamily("ingle_build", "What runs, and what it serves.", value=about)
        for name, text, value in (
            ("slots", "Sequences that can be computed at once.", load.n_slots),
            ("running", "Sequences that are computed now.", load.n_running),
            ("queued", "Requests that wait for a slot.", load.n_queued),
            ("weights_bytes", "Memory that the model's weights take.", model.weights_bytes),
            ("kv_cache_bytes", "Memory that the KV cache of all slots takes.", model.cache_bytes),
            ("kv_cache_positions", "Positions that each slot has.", model.context),
        ):
            yield GaugeMetricFamily(f"ingle_{name}", text, value)
        if (peak := peak_bytes()) is not None:
            yield GaugeMetricFamily("ingle_peak_memory_bytes", "The most memory that the process has held.", peak)
        for name, text, total in (
            ("steps", "Calls of the model.", load.steps),
            ("rows", "Rows that they computed: tokens of prompts and answers.", load.rows),
            ("busy_seconds", "Time that they took.", load.busy_s),
            ("prompt_tokens", "Tokens of prompts, those in the cache included.", load.prompt_tokens),
            ("cached_tokens", "Tokens of prompts that were in the cache.", load.cached_tokens),
            ("completion_tokens", "Tokens of answers.", load.completion_tokens),
            ("queue_full", "Requests refused because the queue was full.", load.n_refused),
        ):
            yield CounterMetricFamily(f"ingle_{name}", text, total)

        if model.window is not None:
            yield from _of_window(model.window.stats())

    def _of_answers(self) -> Iterator[Metric]:
        hits = "Answers whose prompt began with something that was in the cache."
        yield CounterMetricFamily("ingle_prefix_cache_hits", hits, self._cache_hits)
        ended = CounterMetricFamily("ingle_answers", "Answers that ended, by why.", labels=["reason"])
        for reason, n in self._answers.items():
            ended.add_metric([reason], n)
        yield ended
        for name, text, histogram in (
            ("time_to_first_token", "From asking to the first token of an answer.", self._to_first),
            ("inter_token_latency", "From a token of an answer to the next.", self._between),
            ("queue", "From asking to getting a slot, of answers that have a token.", self._queued),
        ):
            yield histogram.add_to(HistogramMetricFamily(f"ingle_{name}_seconds", text))

    def _of_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "ingle_http_requests", "Requests that were answered.", labels=["endpoint", "status"]
        )
        for labels, n in self._requests.items():
            requests.add_metric(labels, n)
        yield requests
        in_progress = "Requests that are being answered, the one for this page included."
        yield GaugeMetricFamily("ingle_http_requests_in_progress", in_progress, self._in_progress)
        took = HistogramMetricFamily(
            "ingle_http_request_seconds", "From a request to the end of its answer.", labels=["endpoint"]
        )
        for endpoint, histogram in self._took.items():
            histogram.add_to(took, [endpoint])
        yield took
        refused = CounterMetricFamily(
            "ingle_refused_requests", "Requests refused for their key, origin, size or rate.", labels=["code"]
        )
        for code, n in self._refused.items():
            refused.add_metric([code], n)
        yield refused


def _of_window(stats: WindowStats) -> Iterator[Metric]:
    """What a model that memory does not hold keeps of its weights, and reads again."""
    for name, text, value in (
        ("pinned_bytes", "Weights that stay in memory.", stats.pinned_bytes),
        ("ring_bytes", "Memory through which the other weights go.", stats.ring_bytes),
        ("experts_bytes", "Memory for experts of a mixture.", stats.experts_bytes),
        (
            "streamed_bytes",
            "What is read for each call of the model, of a mixture without experts.",
            stats.streamed_bytes,
        ),
    ):
        yield GaugeMetricFamily(f"ingle_window_{name}", text, value)
    for name, text, total in (
        ("read_bytes", "Read from the model's file.", stats.read_bytes),
        ("reading_seconds", "Time in which something was read.", stats.reading_s),
        ("waited_seconds", "Time that computing stood still until something was read.", stats.waited_s),
        ("expert_hits", "Experts that were in memory when they were chosen.", stats.expert_hits),
        ("expert_misses", "Experts that were read when they were chosen.", stats.expert_misses),
    ):
        yield CounterMetricFamily(f"ingle_window_{name}", text, total)


class Watch:
    """Looks at the answers to one request as they are read."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last_s: dict[int, float] = {}  # when each answer had its last token

    def token(self, index: int, token: Token, job: Job) -> None:
        """A token of the answer number `index`."""
        last_s = self._last_s.get(index)
        if last_s is None:
            self._metrics.first_token(token, job)
        else:
            self._metrics.next_token(token.time_s - last_s)
        self._last_s[index] = token.time_s

    def ended(self, reason: str, n: int = 1) -> None:
        """Answers that ended, and why."""
        self._metrics.answered(reason, n)


class CountRequests:
    """ASGI middleware: counts what the application answers, and with which status."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # of an error that nobody foresaw: its answer is made further out

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = perf_counter()
        self.metrics.begin_request()
        try:
            await self.app(scope, receive, watched)
        finally:
            endpoint = getattr(scope.get("route"), "path_format", ELSEWHERE)
            self.metrics.end_request(endpoint, status, perf_counter() - began)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, tags=["server"])
async def metrics(http: HttpRequest) -> Response:
    """What the server does and how long it takes, in Prometheus' text format."""
    counted: Metrics = http.app.state.metrics
    return Response(counted.page(), media_type=CONTENT_TYPE)
