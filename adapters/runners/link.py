"""The server's end of the socket to a child process: frames in, frames out, and who waits for what."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Literal, cast

import msgspec

from corral.adapters.runners.dispatch import Dispatch
from corral.adapters.runners.frames import (
    PROTOCOL_VERSION,
    Abort,
    Call,
    Close,
    Fatal,
    FrameReader,
    Heartbeat,
    Load,
    Log,
    Progress,
    Ready,
    Result,
    Step,
    UpFrame,
    add_frame,
    encode,
)
from corral.core.errors import EngineDied, ErrorInfo, PluginError, to_error
from corral.core.ports.inference import OnLoadProgress
from corral.core.requests import Prompt, Request

__all__ = ("Link",)

_log = logging.getLogger("corral.engine")


class Link(asyncio.BufferedProtocol):
    """Lean on purpose: per step of the child it decodes one frame and wakes each reader once.

    `ready` gives the `Dispatch` once the model is loaded. `ended` is done when nothing more will come, with the
    child's own error if it told one. `heard` is set by every frame, for a watch to clear; `step_s` is the last
    heartbeat's.
    """

    def __init__(self, label: str, decoder: msgspec.msgpack.Decoder[UpFrame], on_progress: OnLoadProgress) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Dispatch] = loop.create_future()
        self.ended: asyncio.Future[ErrorInfo | None] = loop.create_future()
        self.heard = True
        self.step_s = 0.0
        self._label = label
        self._decode = decoder.decode
        self._on_progress = on_progress
        self._frames = FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self._dispatch: Dispatch | None = None
        self._call_ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Result]] = {}

    # ── asyncio's side ────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = True
        for data in self._frames.filled(nbytes):
            try:
                frame = self._decode(data)
            except msgspec.MsgspecError as error:
                self._end(EngineDied(f"{self._label}: an unreadable frame: {error}").info)
                return
            if type(frame) is Step:
                if self._dispatch is not None:
                    self._dispatch.deliver(frame.outcomes)
            else:
                self._take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(None)

    # ── The model's side ──────────────────────────────────────────────────────────────────────────────────────────

    def send(self, frame: Load | Abort | Call | Close) -> None:
        """Into the void once the connection is gone; `ended` tells."""
        self._write(encode(frame))

    async def call(
        self, method: Literal["tokenize", "detokenize"], prompts: Sequence[Prompt] = (), ids: Sequence[int] = ()
    ) -> Result:
        """Ask the tokenizer. Raises the error it answers with, `EngineDied` where no answer comes."""
        call_id = next(self._call_ids)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            self.send(Call(call_id, method, tuple(prompts), tuple(ids)))
            result = await future
        finally:
            del self._calls[call_id]
        if result.error is not None:
            raise to_error(result.error)
        return result

    def fail(self, error: ErrorInfo) -> None:
        """Ends every request and call with this error."""
        if self._dispatch is not None:
            self._dispatch.fail(error)
        for call_id, future in self._calls.items():
            if not future.done():
                future.set_result(Result(call_id, error=error))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _add(self, request_id: int, request: Request) -> None:
        self._write(encode(add_frame(request_id, request)))

    def _abort(self, request_id: int) -> None:
        self._write(encode(Abort(request_id)))

    def _take(self, frame: UpFrame) -> None:
        if isinstance(frame, Heartbeat):
            self.step_s = frame.step_s
        elif isinstance(frame, Result):
            future = self._calls.get(frame.call_id)
            if future is not None and not future.done():
                future.set_result(frame)
        elif isinstance(frame, Log):
            _log.log(frame.level, "%s: %s", self._label, frame.message)
        elif isinstance(frame, Progress):
            self._on_progress(frame.share)
        elif isinstance(frame, Fatal):
            self._end(frame.error)
        elif isinstance(frame, Ready):
            if frame.protocol != PROTOCOL_VERSION:
                self._end(PluginError(f"{self._label}: protocol {frame.protocol}, not {PROTOCOL_VERSION}").info)
            elif not self.ready.done():
                self._dispatch = Dispatch(frame.info, add=self._add, abort=self._abort)
                self.ready.set_result(self._dispatch)

    def _end(self, error: ErrorInfo | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
