"""Who may ask: names, pages of others, keys. Each against a real server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ingle.errors import UsageError
from ingle.server.guard import CSP
from ingle.server.keys import new_key
from ingle.server.settings import Settings, host_name, origin_name
from server.live import Live, live
from server.toy_app import ToyApp, guarded

KEY = new_key()
OTHER_KEY = new_key()
PAGE = "https://chat.example.org"
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def open_server() -> Iterator[tuple[Live, ToyApp]]:
    """As on loopback: no key."""
    app, guard = guarded()
    with live(guard) as server:
        yield server, app


@pytest.fixture(scope="module")
def keyed() -> Iterator[tuple[Live, ToyApp]]:
    """With two keys, a page that may call, and one more name."""
    settings = Settings(keys=(KEY, OTHER_KEY), origins=(PAGE,), hosts=("ingle.local",))
    app, guard = guarded(settings)
    with live(guard, settings) as server:
        yield server, app


def test_a_request_passes(open_server: tuple[Live, ToyApp]) -> None:
    server, _ = open_server
    reply = server.ask("POST", "/v1/echo?x=1", b'{"a": [1]}')
    assert reply.status == 200
    record = json.loads(reply.body)
    assert record["body"] == '{"a": [1]}'
    assert record["user"] == "127.0.0.1"
    assert reply.headers["x-request-id"] == record["request_id"].lower()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST", "localhost.", "localhost:1234", "[::1]:8080"])
def test_names_of_this_device_are_answered(open_server: tuple[Live, ToyApp], host: str) -> None:
    assert open_server[0].ask(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8080",
        "192.168.1.7",
        "localhost@evil.example",
        "user@localhost",
        "localhost/",
        "localhost:",
        "localhost:99999",
        "localhost:80:80",
        "[::1",
        "[localhost]",
        "0x7f000001",
        "127.1",
        "",
        "\uff4cocalhost".encode().decode("latin-1"),
    ],
)
def test_a_rebound_name_is_refused(open_server: tuple[Live, ToyApp], host: str) -> None:
    server, app = open_server
    before = len(app.requests)
    for method, body in (("GET", None), ("POST", b"{}"), ("OPTIONS", None)):
        reply = server.ask(method, "/v1/echo", body, host=host)
        assert reply.status == 403
        assert reply.error["code"] == "host_not_allowed"
    assert len(app.requests) == before


def test_a_request_without_a_host_is_refused(open_server: tuple[Live, ToyApp]) -> None:
    (reply,) = open_server[0].send(b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert reply.status == 403


def test_two_hosts_are_refused(open_server: tuple[Live, ToyApp]) -> None:
    (reply,) = open_server[0].send(b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n")
    assert reply.status == 400


@pytest.mark.parametrize("target", ["http://evil.example/v1/models", "*", "evil.example:443"])
def test_it_is_no_proxy(open_server: tuple[Live, ToyApp], target: str) -> None:
    server, app = open_server
    before = len(app.requests)
    assert server.ask("OPTIONS" if target == "*" else "GET", target).status == 400
    assert len(app.requests) == before


def test_a_name_that_was_given_is_answered(keyed: tuple[Live, ToyApp]) -> None:
    assert keyed[0].ask(path="/health", host="ingle.local:8080").status == 200


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "http://localhost:3000",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:{port}/",
        "chrome-extension://abcdef",
        "file://",
        "x",
    ],
)
def test_a_page_elsewhere_cannot_post(open_server: tuple[Live, ToyApp], origin: str) -> None:
    """What a browser sends without asking first, and what it would ask for; also of other servers of this device."""
    server, app = open_server
    before = len(app.requests)
    origin = origin.format(port=server.port)
    for headers in ({"content_type": "text/plain"}, {"content_type": "application/json"}):
        reply = server.ask("POST", "/v1/echo", b'{"a": 1}', origin=origin, **headers)
        assert reply.status == 403
        assert reply.error["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in reply.headers
    assert len(app.requests) == before


def test_the_page_of_the_server_may_post(open_server: tuple[Live, ToyApp]) -> None:
    server, _ = open_server
    origin = f"http://127.0.0.1:{server.port}"
    reply = server.ask("POST", "/v1/echo", b"{}", origin=origin, sec_fetch_site="same-origin")
    assert reply.status == 200
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("path", ["/", "/v1/models", "/health"])
def test_a_page_elsewhere_cannot_embed(open_server: tuple[Live, ToyApp], site: str, path: str) -> None:
    """Pictures, scripts, frames and forms carry no Origin on GET."""
    server, app = open_server
    before = len(app.requests)
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("cors", "empty")):
        reply = server.ask(path=path, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest)
        assert reply.status == 403
    assert len(app.requests) == before


def test_a_link_leads_to_the_page_and_nowhere_else(open_server: tuple[Live, ToyApp]) -> None:
    server, _ = open_server
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert server.ask(path="/", **link).status == 200
    assert server.ask(path="/v1/models", **link).status == 403
    assert server.ask("POST", "/", b"{}", **link).status == 403


def test_an_address_that_is_typed_is_answered(open_server: tuple[Live, ToyApp]) -> None:
    assert open_server[0].ask(path="/v1/models", sec_fetch_site="none", sec_fetch_mode="navigate").status == 200


def test_other_pages_cannot_ask_for_more(open_server: tuple[Live, ToyApp], keyed: tuple[Live, ToyApp]) -> None:
    """A preflight of an origin that is not listed gets nothing; without any listed, nobody does."""
    for server in (open_server[0], keyed[0]):
        reply = server.ask(
            "OPTIONS",
            "/v1/chat/completions",
            origin=EVIL,
            access_control_request_method="POST",
            access_control_request_private_network="true",
        )
        assert reply.status == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_a_listed_page_may_call(keyed: tuple[Live, ToyApp]) -> None:
    server, app = keyed
    before = len(app.requests)
    asked = "authorization,content-type,x-stainless-os"
    reply = server.ask(
        "OPTIONS",
        "/v1/echo",
        origin=PAGE,
        access_control_request_method="POST",
        access_control_request_headers=asked,
        access_control_request_private_network="true",
    )
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert reply.headers["access-control-allow-headers"] == asked
    assert reply.headers["access-control-allow-private-network"] == "true"
    assert "post" in reply.headers["access-control-allow-methods"]
    assert reply.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in reply.headers
    assert len(app.requests) == before
    reply = server.ask("POST", "/v1/echo", b"{}", origin=PAGE, authorization=f"Bearer {KEY}")
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert server.ask("POST", "/v1/echo", b"{}", origin=PAGE).status == 401


def test_answers_differ_by_origin_for_caches(keyed: tuple[Live, ToyApp]) -> None:
    assert keyed[0].ask(path="/health").headers["vary"] == "origin"


@pytest.mark.parametrize("origin", [PAGE + ".evil.example", PAGE + ":444", "http://chat.example.org", PAGE + "/"])
def test_an_origin_is_listed_as_a_whole(keyed: tuple[Live, ToyApp], origin: str) -> None:
    assert keyed[0].ask("POST", "/v1/echo", b"{}", origin=origin, authorization=f"Bearer {KEY}").status == 403


def test_odd_header_names_are_not_echoed(keyed: tuple[Live, ToyApp]) -> None:
    for asked in ("*", "a b", "a\x01", "a," * 500):
        reply = keyed[0].ask(
            "OPTIONS",
            "/v1/echo",
            origin=PAGE,
            access_control_request_method="POST",
            access_control_request_headers=asked,
        )
        assert reply.status in (204, 400)
        assert "access-control-allow-headers" not in reply.headers


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY.swapcase()}",
        f"Bearer {KEY} {OTHER_KEY}",
        f"Basic {KEY}",
        KEY,
        "Bearer \xff\xfe",
    ],
)
def test_a_wrong_key_is_refused(authorization: str | None) -> None:
    app, guard = guarded(Settings(keys=(KEY, OTHER_KEY)))
    with live(guard) as server:
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/"), ("GET", "//health")):
            reply = server.ask(method, path, b"{}" if method == "POST" else None, authorization=authorization)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "bearer"
            assert reply.error["code"] == "invalid_api_key"
            assert reply.error["type"] == "invalid_request_error"
            assert KEY.encode() not in reply.body
    assert app.requests == []


def test_each_key_is_a_user(keyed: tuple[Live, ToyApp]) -> None:
    for key, user in ((KEY, "key-1@127.0.0.1"), (OTHER_KEY, "key-2@127.0.0.1")):
        for scheme in ("Bearer", "bearer"):
            reply = keyed[0].ask("POST", "/v1/echo", b"{}", authorization=f"{scheme} {key}")
            assert json.loads(reply.body)["user"] == user


def test_a_key_in_the_url_is_none(keyed: tuple[Live, ToyApp]) -> None:
    """It would end up in histories and logs."""
    assert keyed[0].ask(path=f"/v1/models?api_key={KEY}&key={KEY}").status == 401


def test_two_keys_in_a_request_are_refused(keyed: tuple[Live, ToyApp]) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\nauthorization: Bearer {KEY}\r\n"
    (reply,) = keyed[0].send(f"{head}connection: close\r\n\r\n".encode())
    assert reply.status == 400


def test_pages_need_no_key_but_all_else_does(keyed: tuple[Live, ToyApp]) -> None:
    server, _ = keyed
    for path in ("/", "/health"):
        assert server.ask(path=path).status == 200
    for path in ("/health/", "/%2e%2e/v1/models", "/x/../health", "/docs", "/openapi.json"):
        assert server.ask(path=path).status == 401


def test_keys_cannot_be_tried_for_long() -> None:
    app, guard = guarded(Settings(keys=(KEY,)))
    with live(guard) as server:
        statuses = [server.ask(authorization=f"Bearer {number}").status for number in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        # Now not even the right key is looked at, so that a guess tells nothing.
        reply = server.ask(authorization=f"Bearer {KEY}")
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert server.ask(path="/health").status == 200
    assert app.requests == ["/health"]


def test_answers_carry_the_headers_that_protect_pages(keyed: tuple[Live, ToyApp]) -> None:
    for reply in (keyed[0].ask(path="/"), keyed[0].ask(path="/v1/models"), keyed[0].ask(host="evil.example")):
        headers = reply.headers
        assert headers["content-security-policy"] == CSP.lower()
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "deny"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"].startswith("req_")
        assert "server" not in headers


def test_names_of_requests_are_our_own(open_server: tuple[Live, ToyApp]) -> None:
    first, second = (open_server[0].ask(x_request_id="mine") for _ in range(2))
    assert "mine" != first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize("header", ["x_forwarded_for", "x_forwarded_host", "forwarded", "x_real_ip"])
def test_a_client_cannot_choose_its_address(open_server: tuple[Live, ToyApp], header: str) -> None:
    reply = open_server[0].ask("POST", "/v1/echo", b"{}", **{header: "10.9.8.7"})
    assert json.loads(reply.body)["user"] == "127.0.0.1"
    assert open_server[0].ask(host="evil.example", **{header: "localhost"}).status == 403


def test_host_headers_are_read_strictly() -> None:
    assert host_name("LocalHost:80") == ("localhost", 80)
    assert host_name("[::1]") == ("::1", None)
    for wrong in ("", ":80", "a b", "a/b", "[::1", "[::1]x", "[127.0.0.1]", "a:1:2", "::1", "a:-1", "-", "a:٣"):
        assert host_name(wrong) is None, wrong


def test_origins_are_read_strictly() -> None:
    assert origin_name("HTTPS://Example.org:443") == "https://example.org"
    assert origin_name("http://[::1]:8080") == "http://[::1]:8080"
    for wrong in ("null", "*", "https://", "https://a/", "https://a?b", "https://u@a", "//a", "https://a b"):
        assert origin_name(wrong) is None, wrong


@pytest.mark.parametrize(
    "options",
    [
        {"origins": ("*",)},
        {"origins": ("null",)},
        {"origins": ("https://a.example/path",)},
        {"hosts": ("a/b",)},
        {"port": 70000},
        {"max_queue": -1},
        {"keys": ("",)},
        {"keys": ("a\nb",)},
    ],
)
def test_settings_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings(**options)  # type: ignore[arg-type]


def test_settings_do_not_show_keys() -> None:
    assert KEY not in repr(Settings(keys=(KEY,)))
