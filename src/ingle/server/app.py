"""The application: all endpoints over one model in service."""

from __future__ import annotations

from fastapi import FastAPI

from ingle import __version__
from ingle.server import chat, completions, embeddings, metrics, models, responses
from ingle.server.errors import add_error_handlers
from ingle.server.page import page_routes
from ingle.server.served import Served

__all__ = ["create_app"]


def create_app(served: Served, *, ui: bool = True) -> FastAPI:
    """The endpoints for a model in service; nothing is computed or opened yet. `app.state` has `served` and `metrics`.

    ui: the chat page too. Who may ask is not its business: see `ingle.server.guard`.
    """
    app = FastAPI(
        title="Ingle",
        version=__version__,
        summary="The OpenAI API, answered on this device.",
        docs_url=None,  # FastAPI's pages for people load scripts from elsewhere
        redoc_url=None,
    )
    app.state.served = served
    app.state.metrics = metrics.Metrics(served)
    app.add_middleware(metrics.CountRequests, metrics=app.state.metrics)
    add_error_handlers(app)
    for part in (chat, completions, embeddings, responses, models, metrics):
        app.include_router(part.router)
    if ui:
        app.router.routes.extend(page_routes())
    return app
