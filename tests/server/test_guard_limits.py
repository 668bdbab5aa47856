"""How much one may take: sizes, seconds, requests, connections. Each against a real server on loopback."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import time

import pytest

from ingle.server.keys import new_key
from ingle.server.limits import Buckets, excess_of_json, network
from ingle.server.settings import Settings
from server.live import PATIENCE_S, Live, Reply, is_closed, is_quiet, live, read_reply, until
from server.toy_app import guarded

HEAD = b"POST /v1/echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def is_dropped(connection: socket.socket, data: bytes = b"") -> bool:
    """Whether the server closes the connection while `data` comes again and again."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            connection.sendall(data)
            if not is_quiet(connection, 0.02) and not connection.recv(65536):
                return True
        except ConnectionError:
            return True
    return False


def test_a_large_body_is_refused_before_it_is_sent() -> None:
    app, guard = guarded(Settings(max_body_bytes=1000))
    with live(guard) as server:
        assert server.ask("POST", "/v1/echo", b"[" + b" " * 998 + b"]").status == 200
        (reply,) = server.send(HEAD + b"content-length: 1001\r\n\r\n")
        assert reply.status == 413
        assert reply.error["code"] == "body_too_large"
        (reply,) = server.send(HEAD + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n")
        assert reply.status == 413
    assert len(app.requests) == 1


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30, "10, 11", "٣", ""])
def test_lengths_that_are_none(length: str) -> None:
    app, guard = guarded()
    with live(guard) as server:
        found = server.send(HEAD + f"content-length: {length}\r\n\r\n".encode() + b"{}")
        assert [reply.status for reply in found] in ([400], [413])
    assert app.requests == []


def test_a_body_without_a_length_is_bounded_as_it_comes() -> None:
    app, guard = guarded(Settings(max_body_bytes=100_000))
    with live(guard) as server:
        head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
        (reply,) = server.send(head + chunks(b"[" + b" " * 50_000, b" " * 40_000 + b"]") + b"0\r\n\r\n")
        assert reply.status == 200
        assert len(json.loads(reply.body)["body"]) == 90_002
        with server.connect() as connection:
            connection.sendall(head + chunks(*[b" " * 10_000] * 11))  # and no end
            assert read_reply(connection).status == 413
    assert len(app.requests) == 1


def test_what_is_sent_behind_a_refusal_is_thrown_away_for_a_while() -> None:
    """So that a client that reads only when all is sent reads the answer; and not for ever."""
    settings = Settings(max_body_bytes=1000, header_timeout_s=1.0)
    _, guard = guarded(settings)
    head = HEAD.replace(b"close", b"keep-alive")
    with live(guard, settings) as server:
        with server.connect() as connection:
            body = b" " * 3_000_000
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert read_reply(connection).status == 413
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert read_reply(connection).status == 200
        with server.connect() as connection:
            connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
            assert is_dropped(connection, chunks(b" " * 1000))


def test_bodies_that_come_at_once_are_bounded_together() -> None:
    settings = Settings(max_body_bytes=60_000, max_bodies_bytes=100_000)
    _, guard = guarded(settings)
    with live(guard, settings) as server:
        head = HEAD + b"content-length: 60000\r\n\r\n"
        with server.connect() as first, server.connect() as second:
            first.sendall(head + b"[" + b" " * 55_000)
            until(lambda: guard._reading_bytes > 50_000)
            second.sendall(head + b"[" + b" " * 55_000)
            reply = read_reply(second)
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            first.sendall(b" " * (60_000 - 55_002) + b"]")
            assert read_reply(first).status == 200
        assert guard._reading_bytes == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_packed_bodies_are_refused(encoding: str) -> None:
    """A few KiB may unpack to many GiB."""
    app, guard = guarded()
    with live(guard) as server:
        assert server.ask("POST", "/v1/echo", gzip.compress(b" " * 10**6), content_encoding=encoding).status == 415
    assert app.requests == []


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
)
def test_bodies_that_a_form_can_send_are_refused(kind: str | None) -> None:
    app, guard = guarded()
    with live(guard) as server:
        reply = server.ask("POST", "/v1/echo", b"{}", content_type=kind)
        assert reply.status == 415
        assert "application/json" in reply.error["message"]
        assert server.ask("POST", "/v1/echo", b"{}", content_type="application/json; charset=utf-8").status == 200
    assert len(app.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 65,
        b'{"a":' * 65,
        b"[{" * 100_000,
        b"[" + b"[]," * 60_000 + b"1]",
        b'["' + b"\\" * 1000 + b'"' + b"[" * 70,
    ],
)
def test_json_that_is_deep_or_has_many_parts_is_refused(body: bytes) -> None:
    app, guard = guarded()
    with live(guard) as server:
        reply = server.ask("POST", "/v1/echo", body)
        assert reply.status == 400
        assert reply.error["code"] == "json_too_complex"
    assert app.requests == []


def test_brackets_in_texts_are_no_depth() -> None:
    assert excess_of_json(json.dumps({"a": "[" * 500 + '\\"{' * 500}).encode(), 4, 100) is None
    assert excess_of_json(b'{"a": "' + b"[" * 500, 4, 100) is None  # a string without its end
    assert excess_of_json(b"[[[[]]]]", 4, 100) is None
    assert excess_of_json(b"[[[[[]]]]]", 4, 100) == "deep"
    assert excess_of_json(b"[" + b"[]," * 100 + b"1]", 4, 100) == "many"
    assert excess_of_json(b"]" * 10 + b"[" * 500, 4, 1000) is None  # no JSON at all: for the parser to say


def test_a_scan_for_brackets_takes_time_in_proportion() -> None:
    """Quotes that never end made a pattern that looks again from each of them."""
    for body in (b"[[[[[[" + b'"\\' * 200_000, b"[[[[[[" + b'\\"' * 200_000, b"[[[[[[" + b'"a",' * 100_000):
        excess_of_json(body, 5, 10**9)


def test_a_body_that_drips_is_given_up() -> None:
    settings = Settings(body_timeout_s=0.3, header_timeout_s=0.3)
    app, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
        while is_quiet(connection, 0.02):
            connection.sendall(b" ")
        assert read_reply(connection).status == 408
        assert is_closed(connection)
    assert app.requests == []


@pytest.mark.parametrize("start", [b"", b"GET", b"GET / HTTP/1.1\r\nhost: localhost\r\n"])
def test_a_header_that_drips_is_given_up(start: bytes) -> None:
    """Slow loris: a connection on which nothing, or a header line now and then, comes for ever."""
    settings = Settings(header_timeout_s=0.3)
    _, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as connection:
        connection.sendall(start)
        assert is_dropped(connection, b"x-a: b\r\n" if start.endswith(b"\n") else b"A" if start else b"")


def test_a_header_that_drips_behind_an_answer_is_given_up() -> None:
    settings = Settings(header_timeout_s=0.3)
    _, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert read_reply(connection).status == 200
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert is_dropped(connection, b"x-a: b\r\n")


def test_a_connection_that_rests_is_closed() -> None:
    settings = Settings(idle_timeout_s=0)
    _, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert is_closed(connection)


def test_answers_that_take_long_are_not_cut() -> None:
    settings = Settings(header_timeout_s=0.1, body_timeout_s=0.1, write_timeout_s=0.1, idle_timeout_s=0)
    _, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as connection:
        connection.sendall(b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        data = b""
        while b"data: 40\n" not in data:
            part = connection.recv(65536)
            assert part
            data += part


def test_who_reads_nothing_is_dropped() -> None:
    settings = Settings(write_timeout_s=0.3)
    app, guard = guarded(settings)
    with live(guard, settings) as server, server.connect() as connection:
        connection.sendall(b"GET /v1/flood HTTP/1.1\r\nhost: localhost\r\n\r\n")
        until(lambda: app.left == 1)  # the application hears of it


def test_who_reads_nothing_of_short_answers_is_dropped() -> None:
    """What fits the buffers never stops the writing; the connection must not last for that."""
    settings = Settings(write_timeout_s=0.3, idle_timeout_s=0, header_timeout_s=0.3)
    _, guard = guarded(settings)
    with live(guard, settings) as server:
        connections = [server.connect() for _ in range(5)]
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)
        assert server.ask(path="/health").status == 200
        for connection in connections:
            assert is_closed(connection)
            connection.close()


def test_a_client_that_leaves_is_noticed() -> None:
    app, guard = guarded()
    with live(guard) as server:
        for method, body in ((b"GET", b""), (b"POST", b"{}")):
            left = app.left
            with server.connect() as connection:
                head = HEAD.replace(b"POST /v1/echo", method + b" /v1/stream")
                connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
                assert connection.recv(100)
            until(lambda left=left: app.left == left + 1)  # type: ignore[misc]


def test_a_client_that_leaves_in_its_body_reaches_nobody() -> None:
    app, guard = guarded()
    with live(guard) as server:
        with server.connect() as connection:
            connection.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
            until(lambda: guard._reading_bytes == 1)
        until(lambda: guard._reading_bytes == 0)
    assert app.requests == []


def test_a_stream_comes_as_it_is_made() -> None:
    _, guard = guarded()
    with live(guard) as server, server.connect() as connection:
        connection.sendall(b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        data = b""
        while b"data: 3\n" not in data:
            part = connection.recv(1000)
            assert part
            data += part
        assert b"data: 500\n" not in data


def test_long_urls_and_headers_are_refused() -> None:
    """Also those that come in one piece, which the parser takes before it has counted."""
    app, guard = guarded()
    with live(guard) as server:
        assert server.ask(path="/v1/models?" + "a" * 5000).status == 414
        assert server.ask(x_long="a" * 17_000).status in (400, 431)
        assert server.ask(**{f"x_{number}": "a" * 100 for number in range(160)}).status in (400, 431)
        (reply,) = server.send(b"GET /" + b"a" * 200_000)
        assert reply.status == 400
        (reply,) = server.send(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000)
        assert reply.status == 400
    assert app.requests == []


def test_smuggled_requests_are_refused() -> None:
    """Two ways to say where a body ends, and lines that parsers read in two ways."""
    app, guard = guarded()
    inner = b"GET /v1/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with live(guard) as server:
        for head in (
            b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % len(inner),
            b"content-length: 3\r\ncontent-length: 0\r\n\r\n",
            b"transfer-encoding: chunked, identity\r\n\r\n",
            b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
            b"x: y\r\n folded: z\r\ncontent-length : 0\r\n\r\n",
            b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        ):
            server.send(HEAD + head + inner)
    assert "/v1/smuggled" not in app.requests


def test_a_broken_body_behind_an_answer_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    _, guard = guarded()
    with live(guard) as server:
        with server.connect() as connection:
            connection.sendall(HEAD.replace(b"localhost", b"evil").replace(b"close", b"keep-alive"))
            connection.sendall(b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
            assert read_reply(connection).status == 403
            connection.sendall(b"zz\r\n\r\n")
            assert is_closed(connection)
        assert server.ask(path="/health").status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_requests_may_follow_each_other_unasked() -> None:
    """Pipelining: the answers come in order."""
    app, guard = guarded()
    with live(guard) as server:
        one = (
            b"POST /v1/echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n"
        )
        data = b"".join(one + b"[%d]" % number for number in range(5)) + HEAD + b"content-length: 3\r\n\r\n[9]"
        assert [json.loads(reply.body)["body"] for reply in server.send(data)] == [f"[{n}]" for n in (*range(5), 9)]
    assert len(app.requests) == 6


def test_websockets_are_refused() -> None:
    """A page of any origin may open one, and no preflight asks."""
    settings = Settings(idle_timeout_s=0)
    app, guard = guarded(settings)
    with live(guard, settings) as server:
        reply = server.ask(
            upgrade="WebSocket",
            connection="Upgrade",
            sec_websocket_version="13",
            sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert reply.status == 400
        assert reply.error["code"] == "no_websocket"
    assert app.requests == []


def test_garbage_is_refused() -> None:
    app, guard = guarded()
    with live(guard) as server:
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
            b"\r\n\r\n\r\nGET\r\n\r\n",
            b"\0" * 99,
        ):
            server.send(data + b"\r\n\r\n")
        assert server.ask(path="/health").status == 200
    assert app.requests == ["/health"]


def test_more_requests_a_minute_than_allowed_wait() -> None:
    keys = (new_key(), new_key())
    settings = Settings(keys=keys, requests_per_minute=5)
    _, guard = guarded(settings)

    def ask(server: Live, key: str) -> Reply:
        return server.ask("POST", "/v1/echo", b"{}", authorization=f"Bearer {key}")

    with live(guard, settings) as server:
        assert [ask(server, keys[0]).status for _ in range(6)] == [200] * 5 + [429]
        reply = ask(server, keys[0])
        assert reply.error["type"] == "rate_limit_error"
        assert 1 <= int(reply.headers["retry-after"]) <= 12
        assert ask(server, keys[1]).status == 200  # another key has its own
        assert server.ask(path="/health").status == 200  # and pages none


def test_buckets_fill_again() -> None:
    now = 0.0
    buckets = Buckets(60, clock=lambda: now)
    assert [buckets.take("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now = 0.75
    assert buckets.take("a") == pytest.approx(0.25)
    now = 2.5
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, pytest.approx(0.5)]
    now = 10**9
    assert [buckets.take("a") for _ in range(61)][-2:] == [0.0, 1.0]
    assert Buckets(0).take("a") == 0.0


def test_buckets_forget_rather_than_grow() -> None:
    buckets = Buckets(2, size=100, clock=lambda: 0.0)
    for number in range(10_000):
        buckets.take(number)
        assert len(buckets) <= 100
    assert buckets.take(9_999) == 0.0
    assert buckets.take(9_999) > 0.0  # the latest is still known


def test_an_address_of_ipv6_stands_for_its_household() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") == "10.0.0.1"
    assert network("fe80::1%eth0") == "fe80::"
    assert network("") == ""


def test_connections_beyond_the_most_are_turned_away() -> None:
    settings = Settings(max_connections=5)
    _, guard = guarded(settings)
    with live(guard, settings) as server:
        kept = [server.connect() for _ in range(5)]
        for connection in kept:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(100)
        with server.connect() as connection:
            reply = read_reply(connection)
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert is_closed(connection)
        kept.pop().close()
        request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        until(lambda: [reply.status for reply in server.send(request)] == [200])
        for connection in kept:
            connection.close()


def test_one_address_does_not_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingle.server.connections.is_loopback", lambda address: False)
    settings = Settings(max_connections=8)
    _, guard = guarded(settings)
    with live(guard, settings) as server:
        kept = [server.connect() for _ in range(2)]
        for connection in kept:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(100)
        with server.connect() as connection:
            assert read_reply(connection).status == 503
        for connection in kept:
            connection.close()


def test_an_error_of_the_application_tells_nothing() -> None:
    _, guard = guarded()
    with live(guard) as server:
        reply = server.ask(path="/v1/bug")
        assert reply.status == 500
        assert b"ZeroDivision" not in reply.body
        assert server.ask(path="/health").status == 200
