"""Real servers on loopback for tests: uvicorn in a thread, on a port that is free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from ingle.engine.model import Model
from ingle.engine.scheduler import Scheduler
from ingle.server.app import create_app
from ingle.server.served import Served

DEADLINE_S = 30.0


@dataclass(frozen=True)
class Serving:
    """A server that runs: its address, and what answers behind it."""

    url: str
    scheduler: Scheduler

    @property
    def n_jobs(self) -> int:
        """Answers that run or wait."""
        load = self.scheduler.load
        return load.n_running + load.n_queued


@contextmanager
def serving(model: Model, name: str, *, max_queue: int = 64) -> Iterator[Serving]:
    """A server of a model, until the end of the `with`."""
    scheduler = Scheduler(model, max_queue=max_queue)
    try:
        with running(create_app(Served(model, scheduler, name))) as url:
            yield Serving(url, scheduler)
    finally:
        scheduler.close(0)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of a server that runs an application until the end of the `with`."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
