"""Errors as the OpenAI API gives them: {"error": {"message", "type", "param", "code"}}, whatever went wrong."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from ingle import errors
from ingle.server.encoding import json_bytes

__all__ = ["RESPONSES", "ApiError", "add_error_handlers", "api_error", "error_response"]

INVALID = "invalid_request_error"
FAILED = "server_error"
_log = logging.getLogger(__name__)

#: What an error of ours means to a client: the first row that it is an instance of counts.
TABLE: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (errors.BusyError, 429, "rate_limit_error", "server_busy"),
    (errors.ContextError, 400, INVALID, "context_length_exceeded"),
    (errors.GrammarError, 400, INVALID, "invalid_schema"),
    (errors.UsageError, 400, INVALID, None),
    (errors.TemplateError, 400, INVALID, "refused_by_template"),
    (errors.ClosedError, 503, FAILED, "stopping"),
    (errors.MemoryLimitError, 503, FAILED, "out_of_memory"),
    (errors.ModelFileError, 500, FAILED, "model_file_failed"),
    (errors.IngleError, 500, FAILED, "model_failed"),
)
#: The codes of what the framework answers by itself.
_CODES = {401: "invalid_api_key", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
#: For `responses` of a route: what OpenAPI is told.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, text in {"4XX": "The request cannot be answered", "5XX": "The server failed"}.items()
}


class ApiError(Exception):
    """What a client is told. param: the field that is wrong, as `messages[0].content`."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param, self.code = message, status, kind, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that says it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def api_error(error: BaseException) -> ApiError:
    """What a client is told of any error. What nobody foresaw, and what is of the device, goes to the log instead."""
    if isinstance(error, ApiError):
        return error
    for known, status, kind, code in TABLE:
        if isinstance(error, known):
            wait_s = getattr(error, "retry_after_s", None)
            headers = {} if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))}
            message = str(error)
            if isinstance(error, errors.ModelFileError):
                _log.error("%s", message)  # it has the file's whole name, which is not for clients
                message = "The model's file cannot be read as it was opened; the server's log says more."
            return ApiError(message, status=status, kind=kind, code=code, headers=headers)
    _log.error("A request failed", exc_info=error)
    return ApiError("The server failed; its log says why.", status=500, kind=FAILED, code="internal_error")


def error_response(error: BaseException) -> Response:
    """The HTTP answer that tells an error."""
    told = api_error(error)
    return Response(json_bytes(told.body), told.status, told.headers, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Have every error of an application answered in the one shape."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = _validation_error(error)
        elif isinstance(error, HTTPException):
            error = _http_error(request, error)
        return error_response(error)

    for kind in (ApiError, errors.IngleError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _http_error(request: Request, error: HTTPException) -> ApiError:
    status = error.status_code
    message = f"{str(error.detail).rstrip('.')}."
    if status == 404:
        message = f"There is nothing at {request.url.path[:200]}; the paths are listed in /openapi.json."
    elif status == 405:
        message = (
            f"{request.method[:20]} is not for {request.url.path[:200]}; use {(error.headers or {}).get('Allow')}."
        )
    kind = _KINDS.get(status, INVALID if status < 500 else FAILED)
    return ApiError(message, status=status, kind=kind, code=_CODES.get(status), headers=error.headers)


def _validation_error(error: RequestValidationError) -> ApiError:
    """The one of pydantic's complaints that says most: a schema that may be several things complains for each."""
    found = error.errors()
    if not found or found[0]["loc"] == ("body",):
        said = found[0]["type"] if found else ""
        if said in ("missing", "model_attributes_type", "dict_type", "model_type"):
            return ApiError("Expected a JSON object as the body, with the header Content-Type: application/json.")
    if found and found[0]["type"] == "json_invalid":
        return ApiError(f"The body is not JSON: {found[0].get('ctx', {}).get('error', 'it cannot be read')}.")
    ranked = [
        (one["type"] == "refused", not one["type"].endswith("_type"), len(_path(one, error.body))) for one in found
    ]
    best = max(range(len(found)), key=lambda index: (ranked[index], -index))
    one = found[best]
    param = _param(_path(one, error.body))
    if one["type"] == "refused":
        context = one.get("ctx", {})
        path = (*_path(one, error.body), *filter(None, [context.get("param")]))
        return ApiError(one["msg"], param=_param(path), code=context.get("code"))
    if one["type"] == "missing":
        return ApiError(f"{param} is missing; give it.", param=param, code="missing_required_parameter")
    same = [other["msg"] for other in found if _path(other, error.body) == _path(one, error.body)]
    said = " or ".join(dict.fromkeys(_plain(message) for message in same[:4])) if one["type"].endswith("_type") else ""
    message = f"{param or 'The body'} {said or _plain(one['msg'])}, got {_shown(one.get('input'))}."
    return ApiError(message, param=param, code="invalid_type" if said else "invalid_value")


def _plain(message: str) -> str:
    for begin in ("Input ", "String ", "List ", "Value ", "Dictionary "):
        message = message.removeprefix(begin)
    return message.partition(" after validation")[0]


def _path(one: Mapping[str, Any], body: Any) -> tuple[str | int, ...]:
    """Where in the body it stands, without the names that pydantic gives to the branches of a union."""
    path: list[str | int] = []
    rest: Sequence[str | int] = one["loc"]
    if rest and rest[0] in ("body", "path", "query"):
        rest = rest[1:]
    for index, key in enumerate(rest):
        last = index + 1 == len(rest)
        if isinstance(body, Mapping) and (key in body or (last and one["type"] == "missing")):
            body = body.get(key)
        elif isinstance(body, list) and isinstance(key, int) and key < len(body):
            body = body[key]
        else:
            continue
        path.append(key)
    return tuple(path)


def _param(path: Sequence[str | int]) -> str | None:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")[:200] or None


def _shown(value: Any) -> str:
    """The beginning of a value as JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
