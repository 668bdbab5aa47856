"""Everything that a request must pass before the application sees it: pure ASGI, outermost.

In this order: the sizes of URL and headers, Host, Upgrade, Origin, the key, the rate, the kind and size of the body,
and the time that it takes. What the application gets is a body that is whole. Streams and disconnects pass as they
are. `docs/serve.md` lists the attacks that this is for, each with its test.

To the application: scope["state"] has `request_id`, and `user`, whom a scheduler may be fair to.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from collections.abc import Callable, Collection
from pathlib import Path

from ingle.server.asgi import App, Headers, Message, Receive, Refused, Request, Scope, Send
from ingle.server.keys import KeyRing
from ingle.server.limits import Buckets, excess_of_json, network
from ingle.server.settings import Settings, host_name, origin_name

__all__ = ["CSP", "Guard", "public_paths"]

STATIC = Path(__file__).parent / "static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# On every answer, where the application says nothing else.
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": CSP.encode(),
    b"cache-control": b"no-store",
}
WRONG_KEYS_PER_MINUTE = 20  # of one address; then none of its keys is looked at for a while
ONCE = (b"host", b"origin", b"authorization", b"content-type", b"content-length", b"sec-fetch-site")
SAFE_METHODS = ("GET", "HEAD")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(?:,[ \t]*[A-Za-z0-9-]{1,64}){0,63}")


class Gone(Exception):
    """The client left before its request was whole."""


class Guard:
    """The ASGI application `app`, for requests that pass.

    public: paths that GET and HEAD may have without a key. Host and Origin hold for them, too. on_refused: told the
    error's code.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        public: Collection[str] | None = None,
        *,
        on_refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.app = app
        self.on_refused = on_refused
        self.settings = settings
        self.public = frozenset(public_paths(ui=settings.ui) if public is None else public)
        self._names = settings.names
        self._origins = frozenset(name for origin in settings.origins if (name := origin_name(origin)))
        self._keys = KeyRing(settings.keys)
        self._rate = Buckets(settings.requests_per_minute)
        self._wrong = Buckets(WRONG_KEYS_PER_MINUTE)
        self._reading_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # WebSockets; closed before they are open
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = f"req_{secrets.token_hex(12)}"
        extra: Headers = [(b"x-request-id", state["request_id"].encode())]
        answer = _with_headers(send, extra)
        try:
            self._check_sizes(request)
            self._check_host(request)
            extra += self._check_origin(request)
            if preflight := self._preflight(request):
                await _answer(answer, 204, preflight, b"")
                return
            state["user"] = self._check_user(request)
            if request.has_body:
                receive = _replay(await self._read_body(request, receive), receive)
        except Refused as refused:
            self.on_refused(refused.code)
            content = [(b"content-type", b"application/json"), *refused.headers]
            await _answer(answer, refused.status, content, b"" if request.method == "HEAD" else refused.body)
            return
        except Gone:
            return
        await self.app(scope, receive, answer)

    def _check_sizes(self, request: Request) -> None:
        """The parser bounds what is not complete; what came in one piece may be larger."""
        if request.n_url_bytes > self.settings.max_url_bytes:
            raise Refused(414, f"The URL is longer than {self.settings.max_url_bytes} bytes.", "url_too_long")
        if request.n_header_bytes > self.settings.max_header_bytes:
            raise Refused(431, f"The headers have over {self.settings.max_header_bytes} bytes.", "headers_too_large")
        for name in ONCE:
            if len(request.headers.get(name, ())) > 1:
                raise Refused(400, f"The header {name.decode()} comes more than once.", "repeated_header")
        if not request.path.startswith("/"):
            raise Refused(400, "The request names no path; this is not a proxy.", "not_a_path")

    def _check_host(self, request: Request) -> None:
        """A page whose name is made to resolve to this device (DNS rebinding) still sends that name as Host."""
        host = host_name(request.header(b"host"))
        if host is None or host[0] not in self._names:
            shown = repr(request.header(b"host")[:80])
            message = (
                f"This server does not answer to the host {shown}; if the name is yours, start it with --allow-host."
            )
            raise Refused(403, message, "host_not_allowed")
        if request.header(b"upgrade").lower() == "websocket":
            raise Refused(400, "WebSockets are not spoken here; use HTTP, with server-sent events.", "no_websocket")

    def _check_origin(self, request: Request) -> Headers:
        """Refuses what a page of another origin sends; gives the headers by which a listed one may read the answer."""
        vary = [(b"vary", b"Origin")] if self._origins else []
        sent, site = request.header(b"origin"), request.header(b"sec-fetch-site").lower()
        if sent:
            origin = origin_name(sent)
            if origin is not None and origin in self._origins:
                return [
                    *vary,
                    (b"access-control-allow-origin", sent.encode("latin-1")),
                    (b"access-control-expose-headers", b"x-request-id, retry-after"),
                ]
            if origin is None or origin != origin_name(f"{request.scope['scheme']}://{request.header(b'host')}"):
                message = f"Pages of {sent[:80]!r} may not call this server; if that is wanted, start it with --origin."
                raise Refused(403, message, "origin_not_allowed", headers=vary)
        elif site not in ("", "none", "same-origin") and not self._is_link(request):
            raise Refused(
                403, "Pages of other sites may not load from this server.", "origin_not_allowed", headers=vary
            )
        return vary

    def _is_link(self, request: Request) -> bool:
        """Whether someone follows a link to the chat page, in a tab of its own."""
        mode, destination = request.header(b"sec-fetch-mode"), request.header(b"sec-fetch-dest")
        return (request.path, request.method, mode, destination) == ("/", "GET", "navigate", "document")

    def _preflight(self, request: Request) -> Headers:
        """The headers that answer a browser's question before a cross-origin request; [] = it is none.

        Only listed origins come here. It is answered without a key, which the browser does not send with it.
        """
        if not (request.method == "OPTIONS" and request.header(b"origin")):
            return []
        if not request.header(b"access-control-request-method"):
            return []
        headers: Headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
            (b"access-control-max-age", b"600"),
        ]
        asked = request.header(b"access-control-request-headers").encode("latin-1").strip()
        if _HEADER_NAMES.fullmatch(asked):
            headers.append((b"access-control-allow-headers", asked))
        if request.header(b"access-control-request-private-network") == "true":
            headers.append((b"access-control-allow-private-network", b"true"))
        return headers

    def _check_user(self, request: Request) -> str:
        """Whom the request is from: "key-1@192.168.1.7", or the address alone where no key is needed."""
        address = network(request.address)
        is_public = request.method in SAFE_METHODS and request.path in self.public
        user = address
        if self._keys and not is_public:
            if wait_s := self._wrong.wait_s(address):
                raise _too_many("Too many wrong keys from this address.", wait_s)
            number = self._keys.find(request.header(b"authorization").encode("latin-1"))
            if number is None:
                self._wrong.take(address)
                said = "Incorrect API key provided" if request.header(b"authorization") else "No API key provided"
                message = f"{said}; expected the header: Authorization: Bearer KEY."
                raise Refused(401, message, "invalid_api_key", headers=[(b"www-authenticate", b"Bearer")])
            user = f"key-{number + 1}@{address}"
        if not is_public and (wait_s := self._rate.take(user)):
            raise _too_many(f"More than {self._rate.per_minute} requests a minute.", wait_s)
        return user

    async def _read_body(self, request: Request, receive: Receive) -> bytes:
        """All of the body, within the bounds of bytes, seconds and JSON."""
        most = self.settings.max_body_bytes
        length = request.header(b"content-length")
        too_large = Refused(413, f"The body is larger than {most:,} bytes.", "body_too_large")
        if length and (not length.isascii() or not length.isdecimal() or int(length[:20]) > most):
            raise too_large
        if request.header(b"content-encoding").lower() not in ("", "identity"):
            raise Refused(415, "The body is compressed; send it as it is.", "unsupported_encoding")
        kind = request.header(b"content-type").partition(";")[0].strip().lower()
        if length != "0" and kind != "application/json":
            # A form of any page can send other types without the browser asking first.
            raise Refused(415, f"The body is {kind[:60]!r}; expected content-type: application/json.", "not_json")
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    body += part
                    self._reading_bytes += len(part)
                    if len(body) > most:
                        raise too_large
                    if self._reading_bytes > self.settings.max_bodies_bytes:
                        headers = [(b"retry-after", b"1")]
                        raise Refused(503, "Too much is being sent at once; try again.", "busy", headers=headers)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            late = f"The body was not there after {self.settings.body_timeout_s:g} s."
            raise Refused(408, late, "body_timeout") from None
        finally:
            self._reading_bytes -= len(body)
        depth, containers = self.settings.max_json_depth, self.settings.max_json_containers
        whole = bytes(body)
        if excess := excess_of_json(whole, depth, containers):
            most_of = {"deep": f"is nested deeper than {depth}", "many": f"has over {containers:,} arrays and objects"}
            raise Refused(400, f"The JSON {most_of[excess]}.", "json_too_complex")
        return whole


def public_paths(*, ui: bool = True) -> frozenset[str]:
    """What needs no key: whether the server is up, and the files of the chat page, which asks for the key itself."""
    if not ui or not STATIC.is_dir():
        return frozenset({"/health"})
    files = {f"/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*") if path.is_file()}
    return frozenset({"/", "/health"} | files)


def _too_many(message: str, wait_s: float) -> Refused:
    seconds = max(1, math.ceil(wait_s))
    headers = [(b"retry-after", str(seconds).encode())]
    return Refused(429, f"{message} Try again in {seconds} s.", "rate_limit_exceeded", headers=headers)


def _with_headers(send: Send, extra: Headers) -> Send:
    """`send`, with the headers of every answer."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            said = {name for name, _ in headers}
            headers = [(name, value) for name, value in headers if name not in (b"server", b"x-request-id")]
            headers += [(name, value) for name, value in SECURITY_HEADERS.items() if name not in said]
            message = {**message, "headers": headers + extra}
        await send(message)

    return send_more


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers + length})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application: first the whole body, then what the client does."""
    parts = [body]

    async def replay() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return replay
