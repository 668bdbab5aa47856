"""A small ASGI application behind a guard: it tells what reached it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ingle.server.asgi import Receive, Scope, Send
from ingle.server.guard import Guard
from ingle.server.settings import Settings


class ToyApp:
    """/v1/echo answers what came, /v1/stream sends lines until the client leaves, /v1/flood sends without end."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.left = 0  # clients that went away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        self.requests.append(scope["path"])
        if scope["path"] in ("/v1/stream", "/v1/flood"):
            await self._stream(scope, receive, send)
            return
        if scope["path"] == "/v1/bug":
            raise ZeroDivisionError
        message = await receive()
        assert not message.get("more_body")
        record: dict[str, Any] = {**scope["state"], "body": message["body"].decode("latin-1")}
        data = json.dumps(record).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"Server", b"toy")]})
        await send({"type": "http.response.body", "body": data})

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        gone = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        try:
            for number in range(1_000_000):
                if gone.done():
                    assert gone.result()["type"] == "http.disconnect"
                    self.left += 1
                    return
                data = b"x" * 65536 if scope["path"] == "/v1/flood" else b"data: %d\n\n" % number
                await send({"type": "http.response.body", "body": data, "more_body": True})
                await asyncio.sleep(0 if scope["path"] == "/v1/flood" else 0.01)
        finally:
            gone.cancel()


def guarded(settings: Settings | None = None) -> tuple[ToyApp, Guard]:
    app = ToyApp()
    return app, Guard(app, settings or Settings(), public={"/", "/health"})
