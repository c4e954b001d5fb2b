"""The routes that only ollama.com can answer: refused, as Ollama refuses them when its cloud is disabled."""

from __future__ import annotations

from typing import Any, ClassVar

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.body import read_json
from corral.api.http.errors import ApiError
from corral.api.http.go_json import Body

__all__ = ("WebFetchBody", "WebSearchBody", "web_fetch", "web_search")


class WebSearchBody(Body, frozen=True, kw_only=True):
    """``POST /api/experimental/web_search``."""

    go_name: ClassVar[str] = "WebSearchRequest"

    query: str = ""
    max_results: int = 0


class WebFetchBody(Body, frozen=True, kw_only=True):
    """``POST /api/experimental/web_fetch``."""

    go_name: ClassVar[str] = "WebFetchRequest"

    url: str = ""


@post("/api/experimental/web_search", operation_id="webSearch", opt={"body": WebSearchBody, "succeeds": False})
async def web_search(request: Request[Any, Any, Any]) -> ASGIApp:
    """Refuses to search the web."""
    await read_json(request, WebSearchBody)
    raise ApiError(403, "ollama cloud is disabled: web search is unavailable")


@post("/api/experimental/web_fetch", operation_id="webFetch", opt={"body": WebFetchBody, "succeeds": False})
async def web_fetch(request: Request[Any, Any, Any]) -> ASGIApp:
    """Refuses to fetch a page of the web."""
    await read_json(request, WebFetchBody)
    raise ApiError(403, "ollama cloud is disabled: web fetch is unavailable")
