"""The parent's end of the socket to a child process: turns bytes into frames, and notices the end."""

from __future__ import annotations

import asyncio
import logging
from typing import Generic, TypeVar, cast

import msgspec

from corral.adapters.runners.frames import Fatal, FrameReader, LoadShare, Log
from corral.core.errors import EngineDied, ErrorInfo
from corral.core.malformed import MALFORMED
from corral.core.ports.runners import OnLoadProgress

__all__ = ("FrameLink",)

_log = logging.getLogger("corral.engine")

FrameT = TypeVar("FrameT")


class FrameLink(asyncio.BufferedProtocol, Generic[FrameT]):
    """Handles the frames that every child sends; subclasses handle their own kinds in `take`.

    `ended` is done when nothing more will arrive, with the child's error if it sent one. `heard` is set whenever
    something arrives; a watchdog clears it.
    """

    def __init__(self, label: str, decoder: msgspec.msgpack.Decoder[FrameT], on_progress: OnLoadProgress) -> None:
        self.ended: asyncio.Future[ErrorInfo | None] = asyncio.get_running_loop().create_future()
        self.heard = True
        self.label = label
        self._decode = decoder.decode
        self._on_progress = on_progress
        self._frames = FrameReader()
        self._transport: asyncio.WriteTransport | None = None

    def take(self, frame: FrameT) -> None:
        """Handle one frame from the child."""
        if isinstance(frame, Log):
            _log.log(frame.level, "%s: %s", self.label, frame.message)
        elif isinstance(frame, LoadShare):
            self._on_progress(frame.share)
        elif isinstance(frame, Fatal):
            self.end(frame.error)

    def write(self, data: bytes) -> None:
        """Dropped silently once the connection is gone; see `ended`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def end(self, error: ErrorInfo | None) -> None:
        """Only the first call has an effect."""
        if not self.ended.done():
            self.ended.set_result(error)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ── asyncio's side ────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transports are not a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = True
        for data in self._frames.filled(nbytes):
            try:
                frame = self._decode(data)
            except MALFORMED as error:
                self.end(EngineDied(f"{self.label}: an unreadable frame: {error}").info)
                return
            self.take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(None)
