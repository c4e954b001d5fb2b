"""Searching the web and fetching its pages: under the paths of ollama.com, and under those of a local Ollama."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from litestar import Request, Response, post

from corral.api.http.body import read_json
from corral.api.http.errors import JSON, ApiError
from corral.api.http.go_json import Body
from corral.api.http.ollama.replies import Reply
from corral.api.http.received import Received
from corral.core.web_errors import WebDisabled

__all__ = ("WebFetchBody", "WebSearchBody", "web_fetch", "web_search")

_STATUSES = (502,)


class WebSearchBody(Body, frozen=True, kw_only=True):
    """``POST /api/web_search``. `max_results` is 5 if it is missing, and 10 at most."""

    go_name: ClassVar[str] = "WebSearchRequest"

    query: str = ""
    max_results: int = 0


class WebFetchBody(Body, frozen=True, kw_only=True):
    """``POST /api/web_fetch``."""

    go_name: ClassVar[str] = "WebFetchRequest"

    url: str = ""


class FoundReply(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    url: str
    content: str


class WebSearchReply(msgspec.Struct, frozen=True, kw_only=True):
    results: tuple[FoundReply, ...]


class WebFetchReply(Reply, frozen=True, kw_only=True):
    title: str
    content: str
    links: tuple[str, ...] = ()


@post(
    ["/api/web_search", "/api/experimental/web_search"],
    status_code=200,
    operation_id="webSearch",
    opt={"scope": "infer", "body": WebSearchBody, "reply": WebSearchReply, "statuses": _STATUSES},
)
async def web_search(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Searches the web, if a setting says through whom."""
    received = Received(request, await read_json(request, WebSearchBody))
    body, web = received.body, received.runtime.web
    try:
        found = await received.unless_client_leaves(web.search(body.query, body.max_results, caller=received.caller))
    except WebDisabled as fault:
        received.log.error = f"{fault}; {fault.remedy}"
        raise ApiError(403, "ollama cloud is disabled: web search is unavailable", code=fault.code) from fault
    results = tuple(FoundReply(title=one.title, url=one.url, content=one.content) for one in found)
    return Response(msgspec.json.encode(WebSearchReply(results=results)), media_type=JSON)


@post(
    ["/api/web_fetch", "/api/experimental/web_fetch"],
    status_code=200,
    operation_id="webFetch",
    opt={"scope": "infer", "body": WebFetchBody, "reply": WebFetchReply, "statuses": _STATUSES},
)
async def web_fetch(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Fetches a page of the web, if a setting allows it: its title, its text and its links."""
    received = Received(request, await read_json(request, WebFetchBody))
    web = received.runtime.web
    try:
        page = await received.unless_client_leaves(web.fetch(received.body.url, caller=received.caller))
    except WebDisabled as fault:
        received.log.error = f"{fault}; {fault.remedy}"
        raise ApiError(403, "ollama cloud is disabled: web fetch is unavailable", code=fault.code) from fault
    reply = WebFetchReply(title=page.title, content=page.content, links=page.links)
    return Response(msgspec.json.encode(reply), media_type=JSON)
