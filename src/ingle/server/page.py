"""The chat page: files that were built from web/chat/, and the headers under which a browser may use them.

The page is public: it holds nothing of anyone's. What needs a key is the API that it calls.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"

# A model's answer is text from outside. Should the page ever take it for more, the browser still loads nothing from
# elsewhere, runs no script but app.js and theme.js, and makes no HTML out of strings (trusted types).
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",  # a link in an answer must not be looked up before it is clicked
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for each time, and answered with 304 where nothing changed
}


class PageFiles(StaticFiles):
    """The files of the page, each with `HEADERS`."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def page_routes() -> list[BaseRoute]:
    """`/` and the files that it names, to be routed beside the API; none asks for a key."""
    files = PageFiles()

    def route(path: str, name: str) -> Route:
        async def answer(request: Request) -> Response:
            return await files.get_response(name, request.scope)

        return Route(path, answer, methods=["GET"], include_in_schema=False)

    return [route("/", "index.html"), *(route(f"/{path.name}", path.name) for path in sorted(STATIC.iterdir()))]
