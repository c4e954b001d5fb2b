"""The server's end of the socket to a model's child process: delivers frames to the requests and calls that wait for
them.
"""

from __future__ import annotations

import asyncio

import msgspec

from corral.adapters.runners.calls import TokenizerCalls
from corral.adapters.runners.dispatch import Dispatch
from corral.adapters.runners.frame_link import FrameLink
from corral.adapters.runners.frames import (
    PROTOCOL_VERSION,
    Abort,
    Add,
    Close,
    GiveUp,
    Heartbeat,
    InfoChanged,
    Load,
    Ready,
    Result,
    Step,
    TokenizerCall,
    UpFrame,
    encode,
)
from corral.core.errors import ErrorInfo, PluginError
from corral.core.ports.runners import OnLoadProgress
from corral.core.requests.requests import Request

__all__ = ("Link",)


class Link(FrameLink[UpFrame]):
    """Kept lean: for each step of the child, it decodes one frame and wakes each reader once.

    `ready` yields the `Dispatch` once the model is loaded. `calls` are the tokenizer calls. `step_s` comes from the
    last heartbeat.
    """

    def __init__(self, label: str, decoder: msgspec.msgpack.Decoder[UpFrame], on_progress: OnLoadProgress) -> None:
        super().__init__(label, decoder, on_progress)
        self.ready: asyncio.Future[Dispatch] = asyncio.get_running_loop().create_future()
        self.step_s = 0.0
        self._dispatch: Dispatch | None = None
        self.calls = TokenizerCalls(begin=self.send, give_up=lambda call_id: self.send(GiveUp(call_id)))

    def send(self, frame: Load | Abort | TokenizerCall | GiveUp | Close) -> None:
        """Dropped silently once the connection is gone; see `ended`."""
        self.write(encode(frame))

    def fail(self, error: ErrorInfo) -> None:
        """End every request and call with this error."""
        if self._dispatch is not None:
            self._dispatch.fail(error)
        self.calls.fail(error)

    def take(self, frame: UpFrame) -> None:
        if type(frame) is Step:
            if self._dispatch is not None:
                self._dispatch.deliver(frame.outcomes)
        elif isinstance(frame, Heartbeat):
            self.step_s = frame.step_s
        elif isinstance(frame, Result):
            self.calls.take(frame)
        elif isinstance(frame, InfoChanged):
            if self._dispatch is not None:
                self._dispatch.info = frame.info
        elif isinstance(frame, Ready):
            if frame.protocol != PROTOCOL_VERSION:
                self.end(PluginError(f"{self.label}: protocol {frame.protocol}, not {PROTOCOL_VERSION}").info)
            elif not self.ready.done():
                self._dispatch = Dispatch(frame.info, add=self._add, abort=self._abort)
                self.ready.set_result(self._dispatch)
        else:
            super().take(frame)

    def _add(self, request_id: int, request: Request) -> None:
        self.write(encode(Add(request_id, request)))

    def _abort(self, request_id: int) -> None:
        self.write(encode(Abort(request_id)))
