"""A thousand requests of all kinds, a fifth of them by clients that leave in the middle: nothing stays behind.

Here 250, unless INGLE_SOAK says how many; CI asks for 1,000. With `-s` the figures are shown.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from live import live, until
from prometheus_client.parser import text_string_to_metric_families
from soak import crowd

from ingle.engine.embedding import Embeddings
from ingle.engine.memory import resident_bytes
from ingle.engine.model import Model
from ingle.engine.scheduler import Scheduler
from ingle.engine.sequence import Job, RunningSequence
from ingle.server.answers import Answers
from ingle.server.app import create_app
from ingle.server.guard import Guard
from ingle.server.served import Served
from ingle.server.settings import Settings
from ingle.server.stream import EventStream
from ingle.server.turn import Choice

N_REQUESTS = int(os.environ.get("INGLE_SOAK", "250"))
N_WARM = 80  # requests after which all is there that stays: threads, code, caches
MOST_GROWTH_BYTES = 24 << 20  # of the process, clients included: the allocator has moods
MOST_BLOCKS = 10_000 + 10 * N_REQUESTS  # that Python may have more: a request that stays has hundreds
OF_A_REQUEST = (RunningSequence, Job, Embeddings, Answers, EventStream, Choice)
DESCRIPTORS = Path("/proc/self/fd")


def test_nothing_stays_behind(model: Model) -> None:
    settings = Settings(max_connections=64)
    with Scheduler(model) as scheduler:
        app = create_app(Served(model, scheduler, "tiny"))
        with live(Guard(app, settings), settings) as server:

            def rest() -> None:
                until(lambda: scheduler.load.n_running + scheduler.load.n_queued == 0)
                until(lambda: _numbers(server.port)["ingle_http_requests_in_progress"] == 1)
                until(lambda: not _left())

            texts = _seeded(server.port)
            _fill_slots(server.port, model)
            crowd(server.port, range(-N_WARM, 0))
            rest()
            counted = _numbers(server.port)
            before, began = _held(), time.monotonic()
            kinds = crowd(server.port, range(N_REQUESTS))
            rest()
            after, took_s = _held(), time.monotonic() - began
            numbers = _numbers(server.port)
            _show(kinds, before, after, took_s)

            assert sum(kinds.values()) == N_REQUESTS
            assert len(kinds) == 12
            assert 0.1 < sum(n for kind, n in kinds.items() if kind.startswith("left")) / N_REQUESTS < 0.3
            assert not [name for name in numbers if name.startswith("ingle_http_requests_total") and " 5" in name]
            assert numbers["ingle_answers_total cancelled"] > counted["ingle_answers_total cancelled"]
            assert "ingle_answers_total failed" not in numbers
            assert scheduler._slots.n_free == scheduler.load.n_slots == 4
            assert not scheduler._begun
            assert after["threads"] == before["threads"]
            assert after["executor"] - before["executor"] < min(32, (os.cpu_count() or 1) + 4)  # asyncio's most
            assert after["tasks"] <= before["tasks"]
            assert after["descriptors"] <= before["descriptors"]
            assert after["blocks"] - before["blocks"] < MOST_BLOCKS
            assert after["bytes"] - before["bytes"] < MOST_GROWTH_BYTES
            assert _seeded(server.port) == texts


def _seeded(port: int) -> list[Any]:
    """Answers that must be the same every time."""
    url = f"http://localhost:{port}/v1"
    asked: list[tuple[str, dict[str, Any]]] = [
        ("completions", {"prompt": "Once upon a time", "max_tokens": 24, "seed": seed, "temperature": 1.0})
        for seed in range(4)
    ]
    story = [{"role": "user", "content": "Tell me a story about a cat and a very old boat."}]
    asked.append(("chat/completions", {"messages": story, "max_tokens": 40, "seed": 9}))
    answers = [httpx.post(f"{url}/{path}", json=body, timeout=60).json()["choices"][0] for path, body in asked]
    vectors = httpx.post(f"{url}/embeddings", json={"input": "a cat"}, timeout=60).json()["data"]
    return [*answers, vectors]


def _fill_slots(port: int, model: Model) -> None:
    """Have all of the KV cache touched: until then it is no memory."""

    def ask(token_id: int) -> int:
        body = {"prompt": [[token_id] * (model.context - 1)], "max_tokens": 1}
        return httpx.post(f"http://localhost:{port}/v1/completions", json=body, timeout=60).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(300, 304))) == {200}


def _left() -> Counter[str]:
    """Objects that should not outlive their request. `isinstance` would ask each for its class, and some warn then."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), OF_A_REQUEST))


def _held() -> dict[str, Any]:
    """What the process holds."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # what was freed is no memory of the process
    names = [thread.name for thread in threading.enumerate()]
    tasks = [one for one in gc.get_objects() if issubclass(type(one), asyncio.Task) and not one.done()]
    return {
        "threads": sorted(name for name in names if not name.startswith("asyncio_")),
        "executor": sum(name.startswith("asyncio_") for name in names),
        "tasks": len(tasks),
        "descriptors": len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.is_dir() else 0,
        "blocks": sys.getallocatedblocks(),
        "bytes": resident_bytes() or 0,
    }


def _numbers(port: int) -> dict[str, float]:
    page = httpx.get(f"http://localhost:{port}/metrics").text
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def _show(kinds: dict[str, int], before: dict[str, Any], after: dict[str, Any], took_s: float) -> None:
    print(f"\n{N_REQUESTS} requests in {took_s:.1f} s:", ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    for name in before:
        values = (before[name], after[name])
        if name == "threads":
            values = tuple(map(len, values))
        elif name == "bytes":
            values = tuple(f"{value / (1 << 20):.1f} MiB" for value in values)
        print(f"  {name}: {values[0]} -> {values[1]}")
