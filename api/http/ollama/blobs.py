"""``/api/blobs/:digest``: clients upload the files of a model that they are about to create."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar import Request, post, route
from litestar.types import ASGIApp, Receive, Scope, Send

from corral.api.http.callers import models_of
from corral.api.http.disconnect import CancelOnDisconnect
from corral.api.http.errors import ApiError
from corral.core.catalog.uploads import BlobUploads
from corral.core.errors import DigestMismatch, InvalidDigest
from corral.core.models.digests import Digest, parse_digest

__all__ = ("create_blob", "has_blob")

_PATH = "/api/blobs/{digest:str}"
"""A digest has no slash, so that it is one segment of the path."""


@route(
    _PATH, http_method=["HEAD"], status_code=200, operation_id="headBlob", opt={"scope": "manage", "statuses": (404,)}
)
async def has_blob(request: Request[Any, Any, Any]) -> ASGIApp:
    """Whether the store has a blob: 200 or 404. If so, it stays while this server runs."""
    if not await _uploads(request).has(_digest(request)):
        return _NoBody(404)
    return _NoBody(200)


@post(
    _PATH,
    status_code=201,
    operation_id="createBlob",
    opt={
        "scope": "manage",
        "binary": True,
        "successes": {201: "The blob is stored", 200: "The store had it; the body was ignored"},
    },
)
async def create_blob(request: Request[Any, Any, Any]) -> ASGIApp:
    """Stores the body as a blob; it is written while it arrives, and may be of any size."""
    wanted, uploads = _digest(request), _uploads(request)
    if await uploads.has(wanted):
        return _NoBody(200)
    async with CancelOnDisconnect(request.scope), aclosing(_chunks(request)) as chunks:
        try:
            await uploads.receive(wanted, chunks, _announced(request))
        except DigestMismatch as error:
            raise ApiError(400, error.message) from error
    return _NoBody(201)


def _uploads(request: Request[Any, Any, Any]) -> BlobUploads:
    return models_of(request).uploads


def _digest(request: Request[Any, Any, Any]) -> Digest:
    try:
        return parse_digest(request.path_params["digest"])
    except InvalidDigest as error:
        raise ApiError(400, "invalid digest format") from error


def _announced(request: Request[Any, Any, Any]) -> int | None:
    """The size of the body, unless it comes in chunks."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


async def _chunks(request: Request[Any, Any, Any]) -> AsyncGenerator[bytes, None]:
    """The body, as fast as it is taken: what is not taken is not read from the connection."""
    more = True
    while more:
        event = await request.receive()
        if event["type"] != "http.request":
            raise ApiError(499, "request canceled")
        yield event["body"]
        more = event["more_body"]


class _NoBody:
    """An ASGI response that has a status and no body, and therefore no content type."""

    def __init__(self, status: int) -> None:
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
