"""The server's end of the socket to a child that holds a model: who waits for what, and what goes to whom."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Literal

import msgspec

from corral.adapters.runners.dispatch import Dispatch
from corral.adapters.runners.frame_link import FrameLink
from corral.adapters.runners.frames import (
    PROTOCOL_VERSION,
    Abort,
    Close,
    GiveUp,
    Heartbeat,
    Load,
    Ready,
    Result,
    Step,
    TokenizerCall,
    UpFrame,
    add_frame,
    encode,
)
from corral.core.error_translation import to_error
from corral.core.errors import ErrorInfo, PluginError
from corral.core.ports.runners import OnLoadProgress
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Request

__all__ = ("Link",)


class Link(FrameLink[UpFrame]):
    """Lean on purpose: per step of the child it decodes one frame and wakes each reader once.

    `ready` gives the `Dispatch` once the model is loaded. `step_s` is the last heartbeat's.
    """

    def __init__(self, label: str, decoder: msgspec.msgpack.Decoder[UpFrame], on_progress: OnLoadProgress) -> None:
        super().__init__(label, decoder, on_progress)
        self.ready: asyncio.Future[Dispatch] = asyncio.get_running_loop().create_future()
        self.step_s = 0.0
        self._dispatch: Dispatch | None = None
        self._call_ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Result]] = {}

    def send(self, frame: Load | Abort | TokenizerCall | GiveUp | Close) -> None:
        """Into the void once the connection is gone; `ended` tells."""
        self.write(encode(frame))

    async def call(
        self,
        method: Literal["tokenize", "detokenize"],
        prompts: Sequence[Prompt] = (),
        ids: Sequence[int] = (),
        *,
        most: int | None = None,
        cut: bool = False,
    ) -> Result:
        """Ask the tokenizer. Raises the error it answers with, `EngineDied` where no answer comes."""
        call_id = next(self._call_ids)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            self.send(TokenizerCall(call_id, method, tuple(prompts), tuple(ids), most, cut))
            result = await future
        except asyncio.CancelledError:
            self.send(GiveUp(call_id))
            raise
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

    def take(self, frame: UpFrame) -> None:
        if type(frame) is Step:
            if self._dispatch is not None:
                self._dispatch.deliver(frame.outcomes)
        elif isinstance(frame, Heartbeat):
            self.step_s = frame.step_s
        elif isinstance(frame, Result):
            future = self._calls.get(frame.call_id)
            if future is not None and not future.done():
                future.set_result(frame)
        elif isinstance(frame, Ready):
            if frame.protocol != PROTOCOL_VERSION:
                self.end(PluginError(f"{self.label}: protocol {frame.protocol}, not {PROTOCOL_VERSION}").info)
            elif not self.ready.done():
                self._dispatch = Dispatch(frame.info, add=self._add, abort=self._abort)
                self.ready.set_result(self._dispatch)
        else:
            super().take(frame)

    def _add(self, request_id: int, request: Request) -> None:
        self.write(encode(add_frame(request_id, request)))

    def _abort(self, request_id: int) -> None:
        self.write(encode(Abort(request_id)))
