"""A lean HTTP/1.1 client: one connection per request; it records bytes with their arrival times and parses later.

On shared cores, the client takes processor time away from the server. So an `Exchange` only records what arrives when,
and `response` parses it afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

__all__ = ("Exchange", "Response", "request", "send")


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `lines` are those of the body without line ends, each with the arrival time of its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    lines: list[tuple[int, bytes]]


class Exchange(asyncio.Protocol):
    """A request in progress. `arrivals` are the reads so far as (nanoseconds, bytes)."""

    def __init__(self, payload: bytes) -> None:
        self.started_ns = time.perf_counter_ns()
        self.arrivals: list[tuple[int, bytes]] = []
        self.closed = asyncio.get_running_loop().create_future()
        self._payload = payload
        self._transport: asyncio.Transport | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._payload)

    def data_received(self, data: bytes) -> None:
        self.arrivals.append((time.perf_counter_ns(), data))
        for count, future in self._waiting:
            if len(self.arrivals) >= count and not future.done():
                future.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(error)
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait_arrivals(self, count: int) -> None:
        """Wait for this many reads, or until the connection is closed."""
        if len(self.arrivals) < count and not self.closed.done():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((count, future))
            await future

    async def finish(self) -> Response:
        """Read until the server closes the connection. Raises `ConnectionError` for an incomplete answer."""
        await self.closed
        return _parse(self.arrivals)

    def abort(self) -> None:
        """Close the connection, like a client that has gone away."""
        if self._transport is not None:
            self._transport.abort()


async def send(url: str, body: object = None, *, method: str = "POST") -> Exchange:
    """Open a connection and send a request; the answer is read as it comes. Raises `OSError` if nobody listens."""
    parts = urlsplit(url)
    payload = b"" if body is None else msgspec.json.encode(body)
    head = (
        f"{method} {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    _, exchange = await loop.create_connection(
        lambda: Exchange(head.encode() + payload), parts.hostname or "127.0.0.1", parts.port or 80
    )
    return exchange


async def request(url: str, body: object = None, *, method: str = "POST", timeout_s: float = 600) -> Response:
    """Send a request and read its whole answer."""
    exchange = await send(url, body, method=method)
    try:
        async with asyncio.timeout(timeout_s):
            return await exchange.finish()
    finally:
        exchange.abort()


def _parse(arrivals: list[tuple[int, bytes]]) -> Response:
    data = b"".join(chunk for _, chunk in arrivals)
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        raise ConnectionError(f"the server closed after {len(data)} bytes without an answer")
    status_line, *header_lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in header_lines)}
    arrived = _clock(arrivals)
    start = len(head) + 4
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, lines = _unchunk(data, start, arrived)
    else:
        body, lines = rest, _lines([(start, rest)], arrived)
        if len(body) < int(headers.get("content-length", "0")):
            raise ConnectionError(f"the answer was cut after {len(body)} bytes")
    return Response(status=int(status_line.split(" ")[1]), headers=headers, body=body, lines=lines)


def _clock(arrivals: list[tuple[int, bytes]]) -> Callable[[int], int]:
    """When the byte at an offset arrived. To be called with increasing offsets."""
    ends: list[tuple[int, int]] = []
    total = 0
    for at_ns, chunk in arrivals:
        total += len(chunk)
        ends.append((total, at_ns))
    position = 0

    def arrived(offset: int) -> int:
        nonlocal position
        while ends[position][0] <= offset:
            position += 1
        return ends[position][1]

    return arrived


def _unchunk(data: bytes, position: int, arrived: Callable[[int], int]) -> tuple[bytes, list[tuple[int, bytes]]]:
    pieces: list[tuple[int, bytes]] = []
    while True:
        end = data.find(b"\r\n", position)
        if end < 0:
            raise ConnectionError("the stream was cut")
        size = int(data[position:end].split(b";")[0], 16)
        if size == 0:
            break
        pieces.append((end + 2, data[end + 2 : end + 2 + size]))
        position = end + 2 + size + 2
    return b"".join(piece for _, piece in pieces), _lines(pieces, arrived)


def _lines(pieces: list[tuple[int, bytes]], arrived: Callable[[int], int]) -> list[tuple[int, bytes]]:
    """The lines of a body that came in pieces, each with the arrival time of its last byte."""
    lines: list[tuple[int, bytes]] = []
    pending = b""
    for offset, piece in pieces:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            lines.append((arrived(offset + end), pending + piece[start:end]))
            pending = b""
            start = end + 1
        pending += piece[start:]
    if pending and pieces:
        offset, piece = pieces[-1]
        lines.append((arrived(offset + len(piece) - 1), pending))
    return lines
