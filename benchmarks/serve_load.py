"""The clients of `serve.py`: so many at once ask a server for streams, each its next as soon as it has one whole.

`python serve_load.py PORT CLIENTS bodies.jsonl` prints one JSON object. While answers come, this process only keeps
bytes and when they came, for it has its processor time from the cores that the server computes on; it reads them after
the last one. Hence no HTTP library: a client of one is as costly as the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = "/v1/chat/completions"
TIMEOUT_S = 300.0  # for one answer


@dataclass
class Exchange:
    """One request and what came back: pieces of bytes with their times. sent: when the request was, by perf_counter."""

    sent: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def said(self) -> Answer:
        """What the bytes say."""
        data = b"".join(piece for _, piece in self.pieces)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            status = head.partition(b"\r\n")[0] or b"no reply"
            return Answer(error=f"{status.decode('latin-1')} {body[:300].decode('utf-8', 'replace')}".rstrip())
        try:
            return self._read(len(head) + 4)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Answer(error=f"a stream that cannot be read ({error!r})")

    def _read(self, skip: int) -> Answer:
        """The stream behind a head of so many bytes."""
        answer = Answer()
        ends: list[float] = []  # of bytes with text, each once
        for came, event in _events(self.pieces, skip):
            if "error" in event:
                return Answer(error=str(event["error"])[:300])
            if any(choice["delta"].get("content") for choice in event.get("choices", [])) and came not in ends[-1:]:
                ends.append(came)
            if event.get("usage"):
                answer.prompt_tokens = event["usage"]["prompt_tokens"]
                answer.completion_tokens = event["usage"]["completion_tokens"]
                answer.cached_tokens = event["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
        if not ends or not answer.completion_tokens:
            return Answer(error="a stream without text or without usage")
        answer.ttft_s = ends[0] - self.sent
        answer.gaps_s = [later - earlier for earlier, later in itertools.pairwise(ends)]
        return answer


@dataclass
class Answer:
    """error: why there is none. ttft_s: from sending the request to the first text. gaps_s: between texts."""

    error: str = ""
    ttft_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


def _events(pieces: Sequence[tuple[float, bytes]], skip: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The JSON of server-sent events in a chunked body that begins after `skip` bytes, each with when its end came."""
    data = b"".join(piece for _, piece in pieces)
    ends, n = [], 0
    for came, piece in pieces:
        n += len(piece)
        ends.append((n, came))
    text, at, spans = bytearray(), skip, []
    while at < len(data):
        size, _, _ = data[at:].partition(b"\r\n")
        begin = at + len(size) + 2
        length = int(size, 16)
        text += data[begin : begin + length]
        spans.append((len(text), begin + length))
        at = begin + length + 2
    begin, index, piece = 0, 0, 0
    while (end := text.find(b"\n\n", begin)) >= 0:
        while spans[index][0] < end + 2:
            index += 1
        while ends[piece][0] < min(spans[index][1], n):
            piece += 1
        event = bytes(text[begin:end])
        begin = end + 2
        if event.startswith(b"data: ") and event != b"data: [DONE]":
            yield ends[piece][1], json.loads(event[6:])


class Connection(asyncio.Protocol):
    """A connection for one request: what it sends until it closes is the answer."""

    def __init__(self, request: bytes) -> None:
        self.exchange = Exchange(time.perf_counter())
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.exchange.pieces.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def load(port: int, n_clients: int, bodies: Sequence[bytes]) -> list[Exchange]:
    """All requests, by so many clients at once that take them in their order."""
    loop = asyncio.get_running_loop()
    left = iter(bodies)
    done: list[Exchange] = []

    async def client() -> None:
        for body in left:
            head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection = Connection(head.encode() + body)
            transport, _ = await loop.create_connection(lambda: connection, "127.0.0.1", port)  # noqa: B023
            with suppress(TimeoutError):
                await asyncio.wait_for(connection.closed, TIMEOUT_S)
            transport.abort()
            done.append(connection.exchange)

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return done


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that so great a share of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """What `serve.py` keeps of a run, in seconds and tokens."""
    good = [answer for answer in answers if not answer.error]
    ttft, gaps = [answer.ttft_s for answer in good], [gap for answer in good for gap in answer.gaps_s]
    run: dict[str, Any] = {"n_errors": len(answers) - len(good)}
    run["errors"] = sorted({answer.error for answer in answers if answer.error})[:3]
    for name, values in (("ttft", ttft), ("itl", gaps)):
        run |= {f"{name}_p{at}_s": round(percentile(values, at / 100), 6) for at in (50, 99)}
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        run[name] = sum(getattr(answer, name) for answer in good)
    return run | {"answer_tokens": sorted({answer.completion_tokens for answer in good})}


def main() -> None:
    """Ask, and print what it was like."""
    port, n_clients, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    bodies = path.read_bytes().splitlines()
    began = time.perf_counter()
    exchanges = asyncio.run(load(port, n_clients, bodies))
    wall_s = time.perf_counter() - began
    run = summary([exchange.said() for exchange in exchanges])
    print(json.dumps({"wall_s": wall_s, "tokens_per_s": run["completion_tokens"] / wall_s} | run))


if __name__ == "__main__":
    main()
