"""A server on loopback in a thread of its own, and requests to it down to the byte."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ingle.server.asgi import App
from ingle.server.settings import Settings

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape, which it must have."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error  # type: ignore[no-any-return]


class Live:
    """How a running server is reached."""

    def __init__(self, port: int, stop: Callable[[], None]) -> None:
        self.port = port
        self.stop = stop

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def send(self, data: bytes, tls: ssl.SSLContext | None = None) -> list[Reply]:
        """Send bytes; gives the replies until the server closes the connection."""
        with ExitStack() as stack:
            connection = stack.enter_context(self.connect())
            if tls is not None:
                connection = stack.enter_context(tls.wrap_socket(connection, server_hostname="localhost"))
            connection.sendall(data)
            return replies(read_all(connection))

    def ask(
        self, method: str = "GET", path: str = "/v1/models", body: bytes | None = None, **headers: str | None
    ) -> Reply:
        """One request, and its reply. Headers as content_type="..."; None leaves one out that is there by default."""
        said = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        if body is not None:
            said |= {"content-type": "application/json", "content-length": str(len(body))}
        for name, value in headers.items():
            name = name.replace("_", "-")
            said.pop(name, None)
            if value is not None:
                said[name] = value
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items())]
        (reply,) = self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        return reply


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = bytearray()
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return bytes(data)


def replies(data: bytes) -> list[Reply]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if "content-length" in headers:
            length = int(headers["content-length"])
            body, data = data[:length], data[length:]
        elif "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while data:
                size, _, data = data.partition(b"\r\n")
                n = int(size, 16)
                body, data = body + data[:n], data[n + 2 :]
                if n == 0:
                    break
        else:
            body, data = (b"", data) if status.split()[1] == "204" else (data, b"")
        found.append(Reply(int(status.split()[1]), headers, body))
    return found


def read_reply(connection: socket.socket) -> Reply:
    """The next reply, which says how long it is."""
    data = bytearray()
    while b"\r\n\r\n" not in data or len(data) < _length(bytes(data)):
        part = connection.recv(65536)
        assert part, "the connection was closed"
        data += part
    (reply,) = replies(bytes(data))
    return reply


def _length(data: bytes) -> int:
    """Bytes of a reply whose headers are there."""
    head = data.partition(b"\r\n\r\n")[0]
    (length,) = (
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    return len(head) + 4 + length


def is_closed(connection: socket.socket, patience_s: float = PATIENCE_S) -> bool:
    """Whether the server closes the connection, after whatever it still sends."""
    connection.settimeout(patience_s)
    try:
        read_all(connection)
    except TimeoutError:
        return False
    return True


def is_quiet(connection: socket.socket, for_s: float) -> bool:
    return not select.select([connection], [], [], for_s)[0]


@contextmanager
def live(app: App, settings: Settings | None = None) -> Iterator[Live]:
    """A server with the application, as `ingle serve` runs it."""
    from ingle.server.addresses import bind
    from ingle.server.run import Server

    sockets = bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    ready = threading.Event()
    server = Server(app, replace(settings or Settings(), port=port), on_ready=ready.set)
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield Live(port, server.stop)
    finally:
        server.stop()
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
