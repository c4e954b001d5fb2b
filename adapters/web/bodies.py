"""The body of an answer, unpacked within limits: of what arrives, of what that becomes, and of how much it grows."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable
from typing import Final

from corral.core.web_errors import WebError

__all__ = ("ENCODINGS", "read_body")

ENCODINGS: Final = "gzip, deflate"
"""What is asked for: ``Accept-Encoding``."""

_MOST_GROWTH: Final = 200
"""How many times larger unpacking may make a body. Pages grow about five times; a bomb grows a thousand times."""

_HARMLESS_BYTES: Final = 256 * 1024
_STEP_BYTES: Final = 64 * 1024


async def read_body(chunks: AsyncIterable[bytes], encoding: str, limit_bytes: int, what: str) -> bytes:
    """The unpacked body. `encoding` is the ``Content-Encoding`` header, `what` how errors call it.

    Raises `WebError` for a body that is larger than `limit_bytes`, grows too much, is broken or packed in another way.
    Reads no further than that.
    """
    unpack = _unpacker(encoding.strip().lower(), what)
    received, data = 0, bytearray()
    async for chunk in chunks:
        received += len(chunk)
        if received > limit_bytes:
            raise _too_large(what, limit_bytes)
        if unpack is None:
            data += chunk
            continue
        try:
            more = bool(chunk)
            while more:
                piece = unpack.unpack(chunk)
                data += piece
                chunk = unpack.rest()
                # A full step may have taken all of its input and still have more to give.
                more = bool(chunk) or len(piece) == _STEP_BYTES
                if len(data) > limit_bytes:
                    raise _too_large(what, limit_bytes)
                if len(data) > max(_HARMLESS_BYTES, received * _MOST_GROWTH):
                    raise WebError(
                        f"{what} grows to more than {_MOST_GROWTH} times its size when it is unpacked",
                        "it is not a page but an attack",
                    )
        except zlib.error as fault:
            raise WebError(f"{what} cannot be unpacked: {fault}") from fault
    if unpack is not None and received and not unpack.is_whole:
        raise WebError(f"{what} breaks off in the middle of its packed body", "try again")
    return bytes(data)


def _too_large(what: str, limit_bytes: int) -> WebError:
    return WebError(f"{what} is larger than {limit_bytes} bytes", "web.max_page_bytes is the limit")


def _unpacker(encoding: str, what: str) -> _Unpacker | None:
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Unpacker(is_gzip=encoding != "deflate")
    raise WebError(f"{what} is packed as {encoding[:60]!r}", f"only {ENCODINGS} are taken")


class _Unpacker:
    """Unpacks step by step, so that one small chunk cannot become a gigabyte."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16) if is_gzip else None

    def unpack(self, chunk: bytes) -> bytes:
        if self._stream is None:
            # Servers send ``deflate`` with a header, as the standard says, and without.
            bare = chunk[0] & 0x0F != 8 or (len(chunk) > 1 and (chunk[0] * 256 + chunk[1]) % 31 != 0)
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS)
        return self._stream.decompress(chunk, _STEP_BYTES)

    def rest(self) -> bytes:
        """What of the last chunk has not been unpacked yet. What follows the end of the stream is dropped."""
        return self._stream.unconsumed_tail if self._stream is not None else b""

    @property
    def is_whole(self) -> bool:
        return self._stream is not None and self._stream.eof
