"""Reads the bodies of answers to requests for a range of bytes, and notices what is missing."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from corral.adapters.registries.oci.connection_pool import Response
from corral.adapters.registries.oci.header_values import stated_number
from corral.core.errors import RangesIgnored, SourceError, SourceUnavailable

__all__ = ("body_size_bytes", "ranged_body")

_CHUNK_BYTES = 1024 * 1024
_LARGE_BYTES = 128 * 1024
"""Worth being handed on as it is: joining copies it."""
_HOLD_S = 0.1
_RANGE = re.compile(
    r"bytes\s+(?:(?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})|\*)/(?P<total>[0-9]{1,18}|\*)", re.IGNORECASE
)


async def ranged_body(
    answer: Response, host: str, what: str, start: int, end: int | None
) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` up to but without `end`, in chunks of at most 1 MiB. The caller closes the answer.

    The answer's status is 200, 206 or 416; `what` was asked for. Raises `RangesIgnored` for one that begins at the
    beginning although `start` is not 0, and `SourceUnavailable` after the last chunk if it breaks off.
    """
    if answer.status == 416:
        _refuse_beyond(answer, host, what, start)
        return
    if answer.status == 200 and start > 0:
        raise RangesIgnored(f"{host} sends {what} only from its beginning", "fetch all of it")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise SourceError(f"{host} compresses {what} on the way, although it was asked not to")
    last = _sent_end(answer, host, start)
    async with aclosing(_bounded(answer.chunks(), end, start)) as pieces, aclosing(_joined(pieces)) as chunks:
        async for chunk in chunks:
            start += len(chunk)
            yield chunk
    due = min(one for one in (end, last) if one is not None) if (end, last) != (None, None) else start
    if start < due:
        raise SourceUnavailable(f"{host} broke off {what} at byte {start} of {due}", "try again")


def body_size_bytes(answer: Response) -> int | None:
    """The size of the whole that an answer is a part of; None if it does not say."""
    if answer.status == 200:
        return stated_number(answer.headers.get("content-length"))
    match = _RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    return stated_number(match["total"]) if match else None


async def _bounded(chunks: AsyncGenerator[bytes, None], end: int | None, start: int) -> AsyncGenerator[bytes, None]:
    """The first chunk begins at `start`; without what comes at `end` or later."""
    left = None if end is None else end - start
    async with aclosing(chunks):
        async for chunk in chunks:
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            if chunk:
                yield chunk
            if left == 0:
                return


async def _joined(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Chunks of at most 1 MiB: what has come so far, if that is enough or has waited long enough.

    What has come is handed on even if the rest never does.
    """
    held: list[bytes] = []
    size_bytes, since_s = 0, 0.0
    try:
        async for piece in pieces:
            if held and (len(piece) >= _LARGE_BYTES or size_bytes + len(piece) > _CHUNK_BYTES):
                yield b"".join(held)
                held, size_bytes = [], 0
            if len(piece) >= _LARGE_BYTES:
                yield piece
                continue
            now_s = time.monotonic()
            since_s = since_s if held else now_s
            held.append(piece)
            size_bytes += len(piece)
            if now_s - since_s > _HOLD_S:
                yield b"".join(held)
                held, size_bytes = [], 0
    except SourceUnavailable:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def _sent_end(answer: Response, host: str, start: int) -> int | None:
    """The size of the whole, or else where the answer ends; None if neither is known.

    Raises `SourceError` if it does not begin where it was asked to.
    """
    if answer.status == 200:
        return stated_number(answer.headers.get("content-length"))
    stated = answer.headers.get("content-range", "")
    match = _RANGE.fullmatch(stated.strip())
    if match is None or match["first"] is None or int(match["first"]) != start:
        raise SourceError(f"{host} was asked for bytes from {start}, and sent {stated[:80] or 'others'!r}")
    # A registry may send less than it was asked for: then the size of the whole says what is missing.
    total = stated_number(match["total"])
    return int(match["last"]) + 1 if total is None else total


def _refuse_beyond(answer: Response, host: str, what: str, start: int) -> None:
    """After 416: nothing is missing if the whole ends where the range would begin. Raises `SourceError` otherwise."""
    match = _RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    total = stated_number(match["total"]) if match else None
    if total is not None and total <= start:
        return
    raise SourceError(f"{host} does not send {what} from byte {start}: 416")
