"""Reads a request's body within the limit, and turns away one that is bigger without reading it."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from corral.api.http.errors import JSON, ApiError, error_body
from corral.api.http.go_json import Body, decode_body

__all__ = ("BodyTooLarge", "read_json", "refuse_body")

BodyT = TypeVar("BodyT", bound=Body)

_LINGER_S = 2.0
_DECODE_IN_THREAD_BYTES = 1024 * 1024


class BodyTooLarge(ApiError):
    """The body is over the limit; most of it has not been read."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the request body is larger than the limit of {limit_bytes} bytes")


async def read_json(request: Request[Any, Any, Any], kind: type[BodyT]) -> BodyT:
    """The body as a `kind`, whatever its content type. Raises `BodyTooLarge`, and `ApiError` as `decode_body` does."""
    data = await _read(request, request.app.state.max_body_bytes)
    if len(data) > _DECODE_IN_THREAD_BYTES:  # images and long documents: the streams of others go on meanwhile
        return await asyncio.to_thread(decode_body, data, kind)
    return decode_body(data, kind)


async def _read(request: Request[Any, Any, Any], limit_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    chunks: list[bytes] = []
    size_bytes = 0
    while True:
        event = await request.receive()
        if event["type"] != "http.request":
            raise ApiError(499, "request canceled")
        chunk = event["body"]
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        chunks.append(chunk)
        if not event["more_body"]:
            return b"".join(chunks)


class _Lingering(ASGIResponse):
    """Complete at once; the connection is closed a moment later.

    Closing it while the client still sends would reset it, and many a client would then not see the answer.
    """

    async def send_body(self, send: Send, receive: Receive) -> None:
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_S):
                more = True
                while more:
                    event = await receive()
                    more = event["type"] == "http.request" and event.get("more_body", False)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _RefusedBody(Response[bytes]):
    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIResponse:
        return _Lingering(
            body=self.content, status_code=self.status_code, media_type=JSON, headers={"connection": "close"}
        )


def refuse_body(request: Request[Any, Any, Any], error: BodyTooLarge) -> Response[bytes]:
    """The exception handler for `BodyTooLarge`."""
    return _RefusedBody(error_body(error.text), status_code=error.status)
