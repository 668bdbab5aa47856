"""POST /v1/completions: texts continued as they are, without a chat template."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from ingle.engine.generate import Request
from ingle.engine.sampling import SamplingParams
from ingle.engine.token import Token
from ingle.server.answers import Answers
from ingle.server.encoding import DONE, event
from ingle.server.errors import RESPONSES, ApiError
from ingle.server.logprobs import completion_logprobs
from ingle.server.models import FINGERPRINT, served_of
from ingle.server.options import params_of, repeated, stops_of, usage_of, user_of
from ingle.server.schemas_completions import CompletionRequest, prompts_of
from ingle.server.served import Served
from ingle.server.stream import respond

__all__ = ["router"]

MAX_ANSWERS = 64  # to one request
router = APIRouter()


@router.post("/v1/completions", response_model=None, responses=RESPONSES, tags=["completions"])
async def create_completion(body: CompletionRequest, http: HttpRequest) -> Response:
    """Continue a text, or several."""
    served = served_of(http, body.model)
    reply = _Reply(served, body)
    chunks = reply.chunks if body.stream else None
    return await respond(http, served, reply.requests, user_of(http, body.user), whole=reply.whole, chunks=chunks)


class _Reply:
    """The continuations of one request, whole or in chunks. Those of a prompt follow each other."""

    def __init__(self, served: Served, body: CompletionRequest) -> None:
        self._served = served
        self._body = body
        self._prompts = prompts_of(body.prompt)
        self._n = len(self._prompts) * body.n
        if self._n > MAX_ANSWERS:
            raise ApiError(
                f"{len(self._prompts)} prompts with n = {body.n} are {self._n} answers; ask for at most {MAX_ANSWERS}.",
                param="prompt",
                code="invalid_value",
            )
        if body.echo and body.logprobs is not None:
            raise ApiError(
                "echo with logprobs asks for those of the prompt, which this server does not give; leave one out.",
                param="logprobs",
                code="unsupported_parameter",
            )
        if body.echo:  # before the engine: its check of the tokens comes later
            most = max((max(prompt) for prompt in self._prompts if not isinstance(prompt, str)), default=0)
            if most >= served.tokenizer.n_vocab:
                raise ApiError(
                    f"The prompt has the token {most}; this model's are 0 to {served.tokenizer.n_vocab - 1}.",
                    param="prompt",
                    code="invalid_value",
                )
        head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        self._head = {**head, "model": served.name, "system_fingerprint": FINGERPRINT}

    def requests(self) -> list[Request]:
        params = params_of(self._body, self._served.model.spec.n_vocab)
        stop = stops_of(self._body)
        return [request for prompt in self._prompts for request in self._request(prompt, params, stop)]

    def _request(self, prompt: str | list[int], params: SamplingParams, stop: tuple[str, ...]) -> list[Request]:
        tokenizer = self._served.tokenizer
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        request = Request(
            ids,
            params=params,
            max_tokens=self._body.max_tokens,
            stop=stop,
            continuation=any(not tokenizer.is_control(token_id) for token_id in ids),
            exact=params.seed is not None,
            n_top=self._body.logprobs or 0,
        )
        return repeated(request, self._body.n)

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The reply in one piece."""
        said: list[list[Token]] = [[] for _ in range(self._n)]
        async for batch in answers.batches():
            for index, token in batch:
                if isinstance(token, Token):
                    said[index].append(token)
        choices = [self._choice(index, tokens, self._echo(index), 0) for index, tokens in enumerate(said)]
        took = {"usage": usage_of(answers.stats, self._body.n), "timings": answers.stats[0].as_dict()}
        return {**self._head, "choices": choices, **took}

    async def chunks(self, answers: Answers) -> AsyncGenerator[bytes]:
        """The reply as server-sent events."""
        usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        head = {**self._head, **({"usage": None} if usage else {})}
        if self._body.echo:
            echoes = [self._choice(index, [], self._echo(index), 0) for index in range(self._n)]
            yield b"".join(event({**head, "choices": [choice]}) for choice in echoes)
        waiting: list[list[Token]] = [[] for _ in range(self._n)]
        offsets = [0] * self._n
        async for batch in answers.batches():
            parts = []
            for index, token in batch:
                if not isinstance(token, Token):
                    continue
                waiting[index].append(token)
                if token.text or token.finish_reason:
                    choice = self._choice(index, waiting[index], "", offsets[index])
                    offsets[index] += len(choice["text"])
                    waiting[index] = []
                    parts.append(event({**head, "choices": [choice]}))
            if parts or not batch:
                yield b"".join(parts)
        if usage:
            took = {"usage": usage_of(answers.stats, self._body.n), "timings": answers.stats[0].as_dict()}
            yield event({**head, "choices": [], **took})
        yield DONE

    def _echo(self, index: int) -> str:
        """What stands before an answer."""
        prompt = self._prompts[index // self._body.n]
        if not self._body.echo:
            return ""
        return prompt if isinstance(prompt, str) else self._served.tokenizer.decode(prompt, skip_special=True)

    def _choice(self, index: int, tokens: list[Token], before: str, offset: int) -> dict[str, Any]:
        reason = tokens[-1].finish_reason if tokens else None
        logprobs = None
        if self._body.logprobs is not None:
            kept = [token for token in tokens if token.finish_reason != "eos"]
            logprobs = completion_logprobs(kept, self._served.tokenizer, offset)
        text = before + "".join(token.text for token in tokens)
        finish = "stop" if reason == "eos" else reason
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
