"""Cuts a streamed body into lines, and lines into server-sent events, holding no more than one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

from corral.core.errors import UpstreamError

__all__ = ("read_events", "read_lines")

_LINE_LIMIT_BYTES = 8 * 1024 * 1024


async def read_lines(chunks: AsyncIterable[bytes], address: str) -> AsyncGenerator[bytes, None]:
    """Lines without their ends; the last may have none. Raises `UpstreamError` for an endless one."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(rest) > _LINE_LIMIT_BYTES:
            raise UpstreamError(f"{address}: a line of more than {_LINE_LIMIT_BYTES} bytes")
    if rest:
        yield rest


async def read_events(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event (``text/event-stream``, WHATWG HTML §9.2). Comments and other fields are passed over."""
    data: list[bytes] = []
    async for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
    if data:
        yield b"\n".join(data)
