"""Reads a request's body within its limits, and rejects a larger one without reading it."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from corral.api.http.body_memory import BodyMemory, BytesRead
from corral.api.http.content_encoding import NextChunk, unpacked
from corral.api.http.disconnect import when_client_leaves
from corral.api.http.errors import JSON, ApiError, BodyTooLarge, asked_of, dialects_of
from corral.api.http.go_json import Body, decode_body, decode_plain
from corral.api.http.json_shape import MOST_DEPTH, JsonShape

__all__ = ("read_json", "refuse_body")

BodyT = TypeVar("BodyT", bound=Body)

_LINGER_S = 2.0
_SMALL_BYTES = 64 * 1024
_FEW_CONTAINERS = 512
_MEDIA_KEYS = ("image_url", "input_audio", "source")
_MOST_TEXT_BYTES = 16 * 1024 * 1024
"""The most memory for the strings of a request; one emoji makes every character of its string take four bytes."""

_TOO_MUCH_TEXT = (
    f"the strings of the request take more than the {_MOST_TEXT_BYTES} bytes of memory allowed for one request"
)


async def read_json(request: Request[Any, Any, Any], kind: type[BodyT]) -> BodyT:
    """The body as a `kind`, whatever its content type. It may be compressed with zstd.

    Raises `BodyTooLarge`, `ServerBusy` while other bodies use all the memory reserved for bodies, and `ApiError` as
    `decode_body` does.
    """
    memory: BodyMemory = request.app.state.bodies
    limit_bytes = min(memory.max_body_bytes, kind.max_body_bytes or memory.max_body_bytes)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 20 or int(announced) > limit_bytes):
        raise BodyTooLarge(limit_bytes)
    data = chunk = b""
    encoding = request.headers.get("content-encoding", "")
    next_chunk, limit_bytes = unpacked(encoding, partial(_next_chunk, request), limit_bytes)
    try:
        while True:
            chunk, is_last = await next_chunk()
            if len(data) + len(chunk) > min(limit_bytes, _SMALL_BYTES):
                return await _read_big(request, memory, kind, bytearray(data), chunk, is_last, limit_bytes, next_chunk)
            data += chunk
            if is_last:
                return await _decode_small(memory, data, kind)
    finally:
        data = chunk = b""  # an error's traceback would keep them until the garbage collector runs


async def _next_chunk(request: Request[Any, Any, Any]) -> tuple[bytes, bool]:
    event = await request.receive()
    if event["type"] != "http.request":
        raise ApiError(499, "request canceled")
    return event["body"], not event["more_body"]


async def _decode_small(memory: BodyMemory, data: bytes, kind: type[BodyT]) -> BodyT:
    """Decodes immediately, unless the body has very many values or is not valid JSON."""
    containers = data.count(b"{") + data.count(b"[")
    if containers > MOST_DEPTH:
        shape = JsonShape()
        shape.feed(data)
        containers = shape.containers
    if containers <= _FEW_CONTAINERS:
        body = decode_plain(data, kind)
        if body is not None:
            return body
    return await memory.run(lambda: decode_body(data, kind, is_counted=True))


async def _read_big(
    request: Request[Any, Any, Any],
    memory: BodyMemory,
    kind: type[BodyT],
    data: bytearray,
    chunk: bytes,
    is_last: bool,
    limit_bytes: int,
    next_chunk: NextChunk,
) -> BodyT:
    """Continues after the body turned out not to be small."""
    shape = JsonShape()
    try:
        async with BytesRead(memory) as read:
            when_client_leaves(request.scope, read.leave)
            await read.add(len(data))
            await memory.count(shape, data)
            while True:
                if len(data) + len(chunk) > limit_bytes:
                    raise BodyTooLarge(limit_bytes)
                await read.add(len(chunk))
                await memory.count(shape, chunk)
                data += chunk
                if is_last or shape.is_complete:
                    break
                chunk, is_last = await next_chunk()
            read.is_whole = True
            if shape.text_bytes > memory.max_body_bytes:
                raise ApiError(413, _TOO_MUCH_TEXT)
            await memory.take(request.scope, shape.memory_bytes)
            body = await memory.run(lambda: decode_body(data, kind, is_counted=True, is_whole=is_last))
    finally:
        data, chunk = bytearray(), b""  # as in `read_json`
    if shape.text_bytes > _MOST_TEXT_BYTES and await memory.run(lambda: _text_bytes(body)) > _MOST_TEXT_BYTES:
        raise ApiError(413, _TOO_MUCH_TEXT)
    return body


def _text_bytes(value: Any, media: bool = False) -> int:
    """The memory that the strings in `value` use. Images are left out: no template or tokenizer gets them.

    `media`: it is what a field contains in which images may be at any depth.
    """
    if isinstance(value, str):
        return sys.getsizeof(value)
    if isinstance(value, msgspec.Struct):
        fields: frozenset[str] = getattr(value, "media_fields", frozenset())
        return sum(
            _text_bytes(getattr(value, name), media or name in fields)
            for name in value.__struct_fields__
            if name != "images"
        )
    if isinstance(value, dict):
        counted = [(key, item) for key, item in value.items() if not (media and key in _MEDIA_KEYS)]
        return sum(_text_bytes(key) + _text_bytes(item, media) for key, item in counted)
    if isinstance(value, (list, tuple)):
        return sum(_text_bytes(item, media) for item in value)
    return 0


class _Lingering(ASGIResponse):
    """A response that is sent completely, and whose connection is closed a moment later.

    Closing the connection while the client is still sending would reset it, and many clients would never see the
    response.
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
            body=self.content,
            status_code=self.status_code,
            media_type=self.media_type or JSON,
            headers={**self.headers, "connection": "close"},
        )


def refuse_body(request: Request[Any, Any, Any], error: BodyTooLarge) -> Response[bytes]:
    """The exception handler for `BodyTooLarge`."""
    reply = dialects_of(request).reply(*asked_of(request.scope), error)
    return _RefusedBody(reply.body, status_code=reply.status, media_type=reply.media_type, headers=dict(reply.headers))
