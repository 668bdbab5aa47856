"""Runs an ASGI application until it is told to stop, and lets the answers in progress end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn

from ingle.server.asgi import App
from ingle.server.connections import bounded_protocol
from ingle.server.settings import Settings

__all__ = ["Server"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANDSHAKE_S = 10.0


class Server:
    """An application at bound sockets.

    on_ready is called when requests can come; on_drain(requests in progress) when it is told to stop for the first
    time. Both in the thread of `run`.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_drain: Callable[[int], None] = lambda n_requests: None,
    ) -> None:
        tls = settings.tls
        config = uvicorn.Config(
            app,
            http=bounded_protocol(settings),
            ws="none",
            log_config=None,
            log_level="error",
            lifespan="off",  # there is nothing to start; a second Ctrl-C would end it with a traceback
            access_log=False,
            proxy_headers=False,  # X-Forwarded-For would let any client choose its address
            server_header=False,
            timeout_keep_alive=settings.idle_timeout_s,
            h11_max_incomplete_event_size=settings.max_url_bytes + settings.max_header_bytes,
            backlog=128,
            ssl_context_factory=None if tls is None else lambda config, default: tls.context,
        )
        self._server = _Uvicorn(config, settings.drain_s, on_ready, on_drain)

    def run(self, sockets: Sequence[socket.socket]) -> bool:
        """Serve until SIGINT or SIGTERM (in the main thread), or `stop`. Gives whether every answer was whole.

        The first lets what was asked be answered, within `settings.drain_s`; the second ends it at once.
        """
        logger = logging.getLogger("uvicorn.error")
        logger.addFilter(_is_no_cut)
        try:
            with asyncio.Runner(loop_factory=_Loop) as runner:
                runner.run(self._server.serve(sockets=list(sockets)))
        finally:
            logger.removeFilter(_is_no_cut)
        return not self._server.cut

    def stop(self) -> None:
        """As a signal, from any thread."""
        loop = self._server.loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self._server.handle_exit, signal.SIGTERM, None)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that doesn't wait a minute for a TLS handshake, as asyncio does."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_S)
        return await super().create_server(*args, **options)


class _Uvicorn(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        drain_s: float,
        on_ready: Callable[[], None],
        on_drain: Callable[[int], None],
    ) -> None:
        super().__init__(config)
        self.cut = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self._drain_s, self._on_ready, self._on_drain = drain_s, on_ready, on_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In the loop, where a handler may print; and without raising the signal again when all is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._stop_now()
            return
        self.should_exit = True
        self._on_drain(len(self.server_state.tasks))
        asyncio.get_running_loop().call_later(self._drain_s, self._stop_now)

    def _stop_now(self) -> None:
        self.force_exit = True
        self.cut = self.cut or bool(self.server_state.tasks)
        for connection in list(self.server_state.connections):  # whose requests then see that their client is gone
            connection.transport.abort()


def _is_no_cut(record: logging.LogRecord) -> bool:
    """An answer cut off by a second Ctrl-C is no error of the application."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
