"""uvicorn's HTTP/1.1 with the bounds it lacks: how many connections, and how long one may wait for nothing.

uvicorn bounds the time between requests, and nothing else: whoever sends half a header, or stops reading, keeps a
connection for ever, and a few hundred of them keep everybody else out ("slow loris").
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ingle.server.limits import network
from ingle.server.settings import Settings, is_loopback

__all__ = ["bounded_protocol"]

SHARE = 4  # of all connections, one address of a network may have this part
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


def bounded_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The class of a server's connections, for `http` of uvicorn.Config."""
    return type("BoundedProtocol", (_Connection,), {"settings": settings})


class _Connection(H11Protocol):
    settings: Settings
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_too_many():
            transport.write(BUSY)
            transport.close()
            self._abort_later()
        self._watch_header()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # a broken body behind an answer: there is no second answer to give
            self.transport.abort()
        self._watch_header()

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # what is broken has nothing to say any more
            super().shutdown()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

    def _is_too_many(self) -> bool:
        if len(self.connections) > self.settings.max_connections:
            return True
        address = self.client[0] if self.client else ""
        if not address or is_loopback(address):
            return False
        mine = network(address)
        others = (getattr(connection, "client", None) for connection in self.connections)
        same = sum(client is not None and network(client[0]) == mine for client in others)
        return same > max(1, self.settings.max_connections // SHARE)

    def _watch_header(self) -> None:
        """While no request is complete up to its body, a clock runs, from the first byte on, whatever else comes."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self._header_timer is None:
            self._header_timer = self.loop.call_later(self.settings.header_timeout_s, self.transport.abort)
        elif not waits and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _abort_later(self) -> None:
        """`close` waits until all is written, which whoever reads nothing can keep from happening."""
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.write_timeout_s, self.transport.abort)
