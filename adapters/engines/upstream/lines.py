"""Divides a streamed body into lines, and lines into server-sent events, with at most one of them in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable

from corral.adapters.engines.upstream.answer_tracking import IDLE_LIMIT_BYTES
from corral.adapters.engines.upstream.refusals import message_of
from corral.core.errors import CorralError, UpstreamError

__all__ = ("read_events", "read_lines")

_LINE_LIMIT_BYTES = 2 * 1024 * 1024  # decoded, JSON takes up to thirty times its length
_SHOWN_BYTES = 64 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELDS = frozenset({b"", b"data", b"event", b"id", b"retry"})  # a comment has an empty name


async def read_lines(chunks: AsyncIterable[bytes], address: str) -> AsyncGenerator[bytes, None]:
    """Lines without their line breaks. Raises `UpstreamError` for one that does not end."""
    rest = bytearray()  # grows in place, since a server may send a long line one byte at a time
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest += first
        for line in others:
            yield bytes(rest).removesuffix(b"\r")
            rest = bytearray(line)
        if len(rest) > _LINE_LIMIT_BYTES:
            raise UpstreamError(f"{address}: a line is longer than {_LINE_LIMIT_BYTES} bytes")
    if rest:
        yield bytes(rest)


async def read_events(
    lines: AsyncIterator[bytes], address: str, error_in: Callable[[bytes], CorralError | None] = lambda body: None
) -> AsyncGenerator[bytes, None]:
    """The data of each event (``text/event-stream``, WHATWG HTML §9.2). Comments, other fields and events without data
    are skipped.

    Raises `UpstreamError` for an event that does not end. For a body that is not a stream, it raises the error that
    `error_in` finds in it, or else `UpstreamError`.
    """
    data: list[bytes] = []
    held_bytes = idle_bytes = 0
    begun = False
    async for line in lines:
        if not begun:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        name, _, value = line.partition(b":")
        if line and not begun and name not in _FIELDS:
            body = await _beginning(line, lines)
            raise error_in(body) or UpstreamError(
                f"{address} did not answer with a stream: {message_of(body)}",
                "check that this is the address of a model server",
            )
        begun = begun or bool(line)
        if name != b"data":
            idle_bytes += len(line) + 1
        if name == b"data":
            data.append(value.removeprefix(b" "))
            held_bytes += len(line)
            if held_bytes > _LINE_LIMIT_BYTES:
                raise UpstreamError(f"{address}: an event is longer than {_LINE_LIMIT_BYTES} bytes")
        elif not line:
            event = b"\n".join(data)
            idle_bytes = 0 if event.strip() else idle_bytes + held_bytes
            data, held_bytes = [], 0
            if event.strip():
                yield event
        if idle_bytes > IDLE_LIMIT_BYTES:
            raise UpstreamError(f"{address} sent {IDLE_LIMIT_BYTES} bytes without an event", "see its own log")
    if event := b"\n".join(data).strip():
        yield event


async def _beginning(line: bytes, lines: AsyncIterator[bytes]) -> bytes:
    text = line
    async for more in lines:
        text += b"\n" + more
        if len(text) > _SHOWN_BYTES:
            break
    return text
