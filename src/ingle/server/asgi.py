"""A request as ASGI has it, and the answer to one that is refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["App", "Headers", "Message", "Receive", "Refused", "Request", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that goes no further, and the answer to it, in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str, *, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or []

    @property
    def body(self) -> bytes:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": str(self), "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


class Request:
    """What the guard reads of a request."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.address: str = (scope.get("client") or ("",))[0]
        self.headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name.lower(), []).append(value)
        self.n_url_bytes = len(scope.get("raw_path") or self.path) + len(scope.get("query_string") or b"")
        self.n_header_bytes = sum(len(name) + len(value) + 4 for name, value in scope["headers"])

    def header(self, name: bytes) -> str:
        """The value, "" where there is none."""
        values = self.headers.get(name)
        return values[0].decode("latin-1") if values else ""

    @property
    def has_body(self) -> bool:
        return b"transfer-encoding" in self.headers or self.header(b"content-length") not in ("", "0")
