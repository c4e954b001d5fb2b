"""Bodies that arrive compressed: zstd, which Ollama accepts for responses, and some coding agents send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any

from corral.api.http.errors import ApiError, BodyTooLarge

__all__ = ("NextChunk", "unpacked", "zstd_module")

_MOST_UNPACKED_BYTES = 20 * 1024 * 1024
"""The largest body once it is unpacked, as in Ollama."""

NextChunk = Callable[[], Awaitable[tuple[bytes, bool]]]
"""The next bytes of a body, and whether they are the last."""

_CHUNK_BYTES = 64 * 1024
_MOST_FRAMES = 1024
"""Each costs a decoder and a copy of what follows it, even if there is nothing in it."""
_WINDOW_LOG = 25  # 32 MiB: as much as such a body can use


def zstd_module() -> Any:
    """The standard library's module, or the package that has it for older versions of Python. Raises `ImportError`."""
    try:
        return import_module("compression.zstd")
    except ImportError:
        return import_module("backports.zstd")


def unpacked(encoding: str, next_chunk: NextChunk, limit_bytes: int) -> tuple[NextChunk, int]:
    """The chunks of a body with this ``Content-Encoding``, and its limit. It is unpacked a little at a time, so that a
    small body cannot become a large one before the limit is noticed, which holds for what arrives as well. Other
    encodings than zstd are left as they are.

    Raises `ApiError` 415 if zstd cannot be unpacked here; reading raises 400 for what is no zstd.
    """
    if encoding.strip().lower() != "zstd":
        return next_chunk, limit_bytes
    try:
        limit_bytes = min(limit_bytes, _MOST_UNPACKED_BYTES)
        return _Unpacked(zstd_module(), next_chunk, limit_bytes).next, limit_bytes
    except ImportError:
        text = "Content-Encoding: zstd is not supported here; send the body as it is, or install corral[server]"
        raise ApiError(415, text) from None


class _Unpacked:
    """A body is one frame after the other, with frames among them that have nothing to say (RFC 8878, section 3)."""

    def __init__(self, zstd: Any, next_chunk: NextChunk, limit_bytes: int) -> None:
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        self._decoder_of_frame = partial(zstd.ZstdDecompressor, options=options)
        self._decoder: Any = None
        self._error: type[Exception] = zstd.ZstdError
        self._next_chunk = next_chunk
        self._limit_bytes = limit_bytes
        self._read_bytes = 0  # frames that are skipped unpack to nothing
        self._frames = 0
        self._rest = b""
        self._is_last = False

    async def next(self) -> tuple[bytes, bool]:
        while True:
            packed, self._rest = self._rest, b""
            if not packed and not self._is_last and (self._decoder is None or self._decoder.needs_input):
                packed, self._is_last = await self._next_chunk()
                self._read_bytes += len(packed)
                if self._read_bytes > self._limit_bytes:
                    raise BodyTooLarge(self._limit_bytes)
            if self._decoder is None:
                if not packed and self._is_last:
                    return b"", True
                self._frames += 1
                if self._frames > _MOST_FRAMES:
                    raise ApiError(400, f"the body has more than {_MOST_FRAMES} zstd frames")
                self._decoder = self._decoder_of_frame()
            try:
                data: bytes = self._decoder.decompress(packed, _CHUNK_BYTES)
            except self._error as fault:
                raise ApiError(400, f"the body is not valid zstd: {fault}") from fault
            if self._decoder.eof:
                self._rest, self._decoder = self._decoder.unused_data, None
            elif not data and self._is_last and self._decoder.needs_input:
                raise ApiError(400, "the body ends within its zstd frame")
            if data:
                return data, False
