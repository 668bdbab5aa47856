"""POST /v1/responses: the newer form of chat completions, without what would have the server keep conversations."""

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
from ingle.server.encoding import event
from ingle.server.errors import RESPONSES, ApiError
from ingle.server.models import served_of
from ingle.server.options import usage_of, user_of
from ingle.server.response_output import ResponseOutput
from ingle.server.schemas_responses import ResponseRequest
from ingle.server.served import Served
from ingle.server.stream import respond
from ingle.server.turn import Choice, Finish, Turn, tools_of

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/responses", response_model=None, responses=RESPONSES, tags=["responses"])
async def create_response(body: ResponseRequest, http: HttpRequest) -> Response:
    """Answer input, at once or as a stream of events."""
    served = served_of(http, body.model)
    reply = _Reply(served, body)
    chunks = reply.chunks if body.stream else None
    user = user_of(http, body.user)
    return await respond(http, served, reply.requests, user, whole=reply.whole, chunks=chunks, failed=reply.failed)


def _turn(body: ResponseRequest) -> Turn:
    choice = body.tool_choice or "auto"
    effort = body.reasoning.effort if body.reasoning else None
    return Turn(
        messages=body.messages(),
        tools=tools_of([tool.as_chat() for tool in body.tools]),
        choice=choice if isinstance(choice, str) else "required",
        named=None if isinstance(choice, str) else choice.name,
        many=body.parallel_tool_calls,
        format=None if body.text is None else body.text.as_format,
        variables={} if effort is None else {"reasoning_effort": effort},
    )


class _Reply:
    """The answer to one request, whole or as events."""

    def __init__(self, served: Served, body: ResponseRequest) -> None:
        self._served = served
        self._body = body
        self._turn = _turn(body)
        self._choice = Choice(self._turn, served.family)
        logprobs = "message.output_text.logprobs" in body.include
        self._n_top = body.top_logprobs or 0 if logprobs else 0
        self._output = ResponseOutput(served.tokenizer, logprobs=logprobs)
        self._head = {"id": f"resp_{secrets.token_hex(16)}", "object": "response", "created_at": int(time.time())}
        self._n_events = 0

    def requests(self) -> list[Request]:
        body = self._body
        return [self._turn.request(self._served, body, max_tokens=body.max_output_tokens, n_top=self._n_top)]

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The response in one piece."""
        finish: Finish | None = None
        async for batch in answers.batches():
            for _, token in batch:
                if isinstance(token, Token):
                    piece = self._choice.push(token)
                    finish = piece.finish
                    for _ in self._output.push(piece):
                        pass
        return self._response(finish, answers)

    async def chunks(self, answers: Answers) -> AsyncGenerator[bytes]:
        """The response as server-sent events."""
        begun = {"response": self._response(None)}
        yield self._event("created", begun) + self._event("in_progress", begun)
        finish: Finish | None = None
        async for batch in answers.batches():
            parts = []
            for _, token in batch:
                if isinstance(token, Token) and (piece := self._choice.push(token)):
                    finish = piece.finish
                    parts += [self._event(name, said) for name, said in self._output.push(piece)]
            if parts or not batch:
                yield b"".join(parts)
        response = self._response(finish, answers)
        yield self._event(response["status"], {"response": response})

    def failed(self, error: ApiError) -> bytes:
        """The event that tells an error."""
        said = {"code": error.code, "message": error.message, "param": error.param}
        return event({"type": "error", **said, "sequence_number": self._n_events}, "error")

    def _event(self, name: str, said: dict[str, Any]) -> bytes:
        self._n_events += 1
        kind = f"response.{name}"
        return event({"type": kind, "sequence_number": self._n_events - 1, **said}, kind)

    def _response(self, finish: Finish | None, answers: Answers | None = None) -> dict[str, Any]:
        body = self._body
        text = {"type": "text"} if body.text is None or body.text.format is None else body.text.format
        choice = body.tool_choice or "auto"
        status = {None: "in_progress", "length": "incomplete"}.get(finish, "completed")
        usage = None
        if answers is not None:
            took = usage_of(answers.stats)
            usage = {
                "input_tokens": took["prompt_tokens"],
                "input_tokens_details": {**took["prompt_tokens_details"], "cache_write_tokens": 0},
                "output_tokens": took["completion_tokens"],
                "output_tokens_details": took["completion_tokens_details"],
                "total_tokens": took["total_tokens"],
            }
        return {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if finish == "length" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata,
            "model": self._served.name,
            "output": self._output.items,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "background": False,
            "service_tier": "default",
            "store": False,
            "temperature": body.temperature,
            "text": {"format": text if isinstance(text, dict) else text.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [{"strict": True, **tool.model_dump(exclude_none=True)} for tool in body.tools],
            "top_logprobs": self._n_top,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": body.user,
        }
