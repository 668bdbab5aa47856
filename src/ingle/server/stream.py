"""Answers over HTTP that end when the client goes away: streams of events, and whole ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from ingle.engine.generate import Request
from ingle.server.answers import Answers
from ingle.server.encoding import event, json_bytes
from ingle.server.errors import ApiError, api_error
from ingle.server.metrics import Watch
from ingle.server.served import Served

__all__ = ["EventStream", "respond", "until_gone"]

T = TypeVar("T")
KEEP_ALIVE = b": still here\n\n"  # a comment, to readers of events


async def respond(
    http: HttpRequest,
    served: Served,
    requests: Callable[[], Sequence[Request]],
    user: str,
    *,
    whole: Callable[[Answers], Coroutine[Any, Any, dict[str, Any]]],
    chunks: Callable[[Answers], AsyncGenerator[bytes]] | None,
    failed: Callable[[ApiError], bytes] = lambda error: event(error.body),
) -> Response:
    """Answer some requests: in `chunks` as they come, or, where that is None, `whole`.

    requests: makes them, in another thread. Raises what makes or takes them raises, before anything is sent.
    """
    answers = Answers(Watch(http.app.state.metrics))

    async def ask() -> None:
        try:
            await asyncio.to_thread(lambda: answers.submit(served.scheduler, requests(), user))
        except BaseException:
            answers.close()
            raise

    async def work() -> Response:
        with answers:
            await ask()
            return Response(json_bytes(await whole(answers)), media_type="application/json")

    if chunks is None:
        return await until_gone(http, work())
    await ask()
    return EventStream(chunks(answers), answers, failed)


class EventStream(Response):
    """Server-sent events. What goes wrong on the way is the last event; a client that goes away ends the answers."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], answers: Answers, failed: Callable[[ApiError], bytes]) -> None:
        """events: each of one or more whole events; b"" where there is nothing to say. failed: tells an error."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._answers = answers
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answers:
            await _first(self._send(send), _gone(receive))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self._events) as events:
                async for data in events:
                    await send({"type": "http.response.body", "body": data or KEEP_ALIVE, "more_body": True})
        except OSError:  # the connection is gone
            return
        except Exception as error:
            await send({"type": "http.response.body", "body": self._failed(api_error(error)), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_gone(http: HttpRequest, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of some work, which is cancelled when the client goes away; then nobody reads what is returned."""
    return await _first(work, _gone(http.receive)) or Response(status_code=499)


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(work: Coroutine[Any, Any, T], other: Coroutine[Any, Any, None]) -> T | None:
    """The result of `work`, or None where `other` ends before it; neither goes on afterwards."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(other)
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
