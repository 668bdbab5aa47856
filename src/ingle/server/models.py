"""GET /v1/models and /health: what is served, and whether it is well."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from ingle import __version__
from ingle.engine.memory import resident_bytes
from ingle.server.errors import RESPONSES
from ingle.server.served import Served

__all__ = ["FINGERPRINT", "router", "served_of"]

FINGERPRINT = f"ingle-{__version__}"
router = APIRouter()


def served_of(http: HttpRequest, name: str | None = None) -> Served:
    """What the application serves. Raises ApiError where it has not the name that was asked for."""
    served: Served = http.app.state.served
    served.check_name(name)
    return served


@router.get("/v1/models", tags=["models"])
async def list_models(http: HttpRequest) -> dict[str, Any]:
    """The models: there is one."""
    return {"object": "list", "data": [served_of(http).describe()]}


@router.get("/v1/models/{model:path}", responses=RESPONSES, tags=["models"])
async def get_model(model: str, http: HttpRequest) -> dict[str, Any]:
    """One model."""
    return served_of(http, model).describe()


@router.get("/health", tags=["server"])
async def health(http: HttpRequest) -> dict[str, Any]:
    """Whether the server answers, and the memory that it holds."""
    memory = resident_bytes()
    return {"status": "ok", "model": served_of(http).name, "version": __version__, "memory_bytes": memory}
