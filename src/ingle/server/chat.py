"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from ingle.engine.generate import Request
from ingle.engine.token import Token
from ingle.server.answers import Answers
from ingle.server.encoding import DONE, Frame, event
from ingle.server.errors import RESPONSES
from ingle.server.logprobs import chat_logprobs
from ingle.server.models import FINGERPRINT, served_of
from ingle.server.options import repeated, usage_of, user_of
from ingle.server.schemas_chat import ChatRequest
from ingle.server.served import Served
from ingle.server.stream import respond
from ingle.server.turn import CallDelta, Choice, Piece, Turn, tools_of

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None, responses=RESPONSES, tags=["chat"])
async def create_chat_completion(body: ChatRequest, http: HttpRequest) -> Response:
    """Answer a conversation, at once or as a stream of chunks."""
    served = served_of(http, body.model)
    reply = _Reply(served, body)
    chunks = reply.chunks if body.stream else None
    return await respond(http, served, reply.requests, user_of(http, body.user), whole=reply.whole, chunks=chunks)


def _turn(body: ChatRequest) -> Turn:
    choice = body.tool_choice or "auto"
    effort = {} if body.reasoning_effort is None else {"reasoning_effort": body.reasoning_effort}
    return Turn(
        messages=[message.as_template() for message in body.messages],
        tools=tools_of([tool.model_dump(exclude_none=True) for tool in body.tools]),
        choice=choice if isinstance(choice, str) else "required",
        named=None if isinstance(choice, str) else choice.function.name,
        many=body.parallel_tool_calls,
        format=None if body.response_format is None else body.response_format.as_format,
        variables={**body.chat_template_kwargs, **effort},
    )


class _Reply:
    """The answer to one request, whole or in chunks."""

    def __init__(self, served: Served, body: ChatRequest) -> None:
        self._served = served
        self._body = body
        self._turn = _turn(body)
        self._choices = [Choice(self._turn, served.family) for _ in range(body.n)]
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.name}

    def requests(self) -> list[Request]:
        body = self._body
        n_top = body.top_logprobs or 0 if body.logprobs else 0
        max_tokens = body.max_completion_tokens or body.max_tokens
        return repeated(self._turn.request(self._served, body, max_tokens=max_tokens, n_top=n_top), body.n)

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The reply in one piece."""
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        async for batch in answers.batches():
            for index, token in batch:
                if isinstance(token, Token) and (piece := self._choices[index].push(token)):
                    pieces[index].append(piece)
        return {
            **self._named("chat.completion"),
            "choices": [self._choice(index, found) for index, found in enumerate(pieces)],
            "usage": usage_of(answers.stats, self._body.n),
            "timings": answers.stats[0].as_dict(),
        }

    async def chunks(self, answers: Answers) -> AsyncGenerator[bytes]:
        """The reply as server-sent events, several at once where several are there."""
        usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        head = {**self._named("chat.completion.chunk"), **({"usage": None} if usage else {})}

        def chunk(index: int, delta: dict[str, Any], piece: Piece | None = None) -> dict[str, Any]:
            logprobs = None if piece is None else self._logprobs([piece])
            finish = None if piece is None else piece.finish
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return {**head, "choices": [choice]}

        def frame(index: int) -> Frame:
            return Frame(lambda text: chunk(index, {"content": text}))

        frames = [frame(index) for index in range(self._body.n)]

        def said(index: int, piece: Piece) -> bytes:
            if piece.calls or piece.finish or self._body.logprobs:
                return event(chunk(index, _delta(piece), piece))
            return frames[index].event(piece.text)

        yield b"".join(event(chunk(i, {"role": "assistant", "content": ""})) for i in range(self._body.n))
        async for batch in answers.batches():
            pieces = [(index, self._choices[index].push(token)) for index, token in batch if isinstance(token, Token)]
            if parts := [said(index, piece) for index, piece in pieces if piece]:
                yield b"".join(parts)
            elif not batch:
                yield b""
        if usage:
            took = {"usage": usage_of(answers.stats, self._body.n), "timings": answers.stats[0].as_dict()}
            yield event({**head, "choices": [], **took})
        yield DONE

    def _named(self, kind: str) -> dict[str, Any]:
        return {**self._head, "object": kind, "system_fingerprint": FINGERPRINT, "service_tier": "default"}

    def _choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        calls = _whole_calls([call for piece in pieces for call in piece.calls])
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        logprobs = self._logprobs(pieces)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": pieces[-1].finish}

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        tokens = [token for piece in pieces for token in piece.tokens]
        return {"content": chat_logprobs(tokens, self._served.tokenizer), "refusal": None}


def _delta(piece: Piece) -> dict[str, Any]:
    delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
    if piece.calls:
        delta["tool_calls"] = [_call(call, first=bool(call.name)) for call in piece.calls]
    return delta


def _call(call: CallDelta, *, first: bool) -> dict[str, Any]:
    if not first:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _whole_calls(deltas: list[CallDelta]) -> list[dict[str, Any]]:
    """The calls of an answer, from their parts."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        if delta.name:
            calls[delta.index] = {key: value for key, value in _call(delta, first=True).items() if key != "index"}
        else:
            calls[delta.index]["function"]["arguments"] += delta.arguments
    return list(calls.values())
