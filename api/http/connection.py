"""One client's connection: limits on what a client may queue up or leave unread, turns, refusals and timeouts.

uvicorn queues pipelined requests without limit, and waits forever for a head, a body or a reader.
`RequestReading` counts and parses what comes in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from corral.api.http.connections import Connections
from corral.api.http.dialects import Dialects
from corral.api.http.disconnect import CLIENT_LEFT, READER_STALLED
from corral.api.http.errors import ApiError
from corral.api.http.held_bytes import HELD_BYTES
from corral.api.http.reader_watch import ReaderWatch, has_left
from corral.api.http.request_reading import Phase, RequestReading
from corral.api.http.settings import HttpSettings

__all__ = ("Connection",)

_UNSENT_BYTES = 16 * 1024
_ALWAYS_HELD_BYTES = 16 * 1024
_BODY_BYTES_PER_S = 1024
_LINGER_S = 2.0


class _Flow(FlowControl):
    """Keeps reading paused while the connection holds enough bytes that it may not parse yet."""

    holding = False

    def resume_reading(self) -> None:
        if not self.holding:
            super().resume_reading()


class Connection(RequestReading):
    """The protocol that `uvicorn.Server` creates for each connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: HttpSettings,
        connections: Connections,
        dialects: Dialects,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, settings=settings)
        self._all = connections
        self._dialects = dialects
        self._lingering: asyncio.TimerHandle | None = None

        self._counted_bytes = 0
        self._waits_for_turn = False
        # The answer that is being sent.
        self._reader = ReaderWatch()
        self._on_left: list[Callable[[], None]] = []

    # ── The transport's side ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # While a writer waits, the unsent bytes can only decrease, which distinguishes a slow reader from an idle one.
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self.flow = _Flow(transport)
        if not self._all.admit(self):
            if self._all.refuse(self):
                self._refuse(503, "the server has reached its limit of connections; try again later")
            else:
                self._is_refused = True
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_held()
        self._is_refused = True
        self._all.forget(self)
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.body = bytearray()  # no one reads it, and a traceback may keep the request alive
        self._tell_left()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._is_refused:
            return  # read and discarded, so that the client can see the reason
        if not self._is_answering():
            if self._phase is Phase.HEAD and not self._overhead_bytes and not self._held:
                self._since_s = time.monotonic()
            self._all.wait_for(self)
        self._held.add(data)
        if not self._waits_for_turn:
            self._parse()
        else:
            self._balance()

    # ── Taking turns ──────────────────────────────────────────────────────────────────────────────────────────────

    def _parse(self) -> None:
        self._waits_for_turn = False
        if self._parse_some():
            self._wait_for_turn()
        self._balance()

    def _balance(self) -> None:
        """Pauses reading while a lot is held, and counts the held bytes of all connections together."""
        if self._is_refused:
            return
        flow = self.flow
        assert isinstance(flow, _Flow)
        is_needed = self._phase is Phase.HEAD and not self._waits_for_turn and not self._is_answering()
        if len(self._held) > HELD_BYTES and not is_needed:
            flow.holding = True
            flow.pause_reading()
        elif flow.holding:
            flow.holding = False
            flow.resume_reading()
        unfinished_bytes = len(self._held) + self._overhead_bytes
        more_bytes = unfinished_bytes - self._counted_bytes
        self._counted_bytes = unfinished_bytes
        if not self._all.hold(more_bytes) and more_bytes > 0 and unfinished_bytes > _ALWAYS_HELD_BYTES:
            self._note("refused a request because too many are unfinished")
            self._refuse(503, "too many requests are unfinished; try again later")

    def _forget_held(self) -> None:
        self._held.clear()
        self._all.hold(-self._counted_bytes)
        self._counted_bytes = 0
        self._waits_for_turn = False
        self._all.turns.forget(self)

    def _wait_for_turn(self) -> None:
        self._waits_for_turn = True
        self._all.turns.wait(self, self._parse)

    # ── The parser's side ─────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reader.on_stalled = None
        self._on_left.clear()
        self.scope["extensions"] = {
            READER_STALLED: {"call": self._when_stalled},
            CLIENT_LEFT: {"call": self._when_left},
        }

    def _message_was_read(self) -> None:
        if self._is_answering():
            self._all.work_for(self)
        else:
            self._since_s = time.monotonic()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._on_left.clear()
        if self._is_refused or self.transport.is_closing():
            return
        if self._phase is Phase.HEAD:
            self._since_s = time.monotonic()
        self._all.wait_for(self)
        if self._held and not self._waits_for_turn:
            self._unset_keepalive_if_required()
            self._wait_for_turn()

    # ── Giving up ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, status: int, text: str) -> None:
        """Sends an error unless a response has begun; closes the connection once the client had time to read it."""
        self._is_refused = True
        self._forget_held()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            self._tell_left()
            if cycle.response_started:
                self.transport.abort()
                return
        path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        reply = self._dialects.reply(path, self.headers or (), ApiError(status, text))
        fields = {"content-length": len(reply.body), "connection": "close", **reply.fields()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        self.transport.write(STATUS_LINE[reply.status] + head.encode("latin-1") + reply.body)
        # Closing with unread data would reset the connection, and many clients would not see the response.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        assert isinstance(self.flow, _Flow)
        self.flow.holding = False
        self.flow.resume_reading()
        self._lingering = self.loop.call_later(_LINGER_S, self.transport.abort)

    def retire(self) -> None:
        self._is_refused = True
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, partial(self._contained, cycle, app))

    async def _contained(
        self, cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Only the server's shutdown cancels a request. An unfinished response is then cut off visibly."""
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            cycle.disconnected = True
            self.transport.close()

    # ── Standing still ────────────────────────────────────────────────────────────────────────────────────────────

    def _when_stalled(self, callback: Callable[[], None]) -> None:
        self._reader.on_stalled = callback

    def _when_left(self, callback: Callable[[], None]) -> None:
        if self.cycle is not None and self.cycle.disconnected:
            self.loop.call_soon(callback)
        else:
            self._on_left.append(callback)

    def _tell_left(self) -> None:
        while self._on_left:
            self._on_left.pop()()

    def check(self, now_s: float) -> None:
        if self._is_refused:
            return
        if self.flow.read_paused and has_left(self.transport):
            self.transport.abort()
        elif self._stopped_reading(now_s):
            self._note("cut off an answer because its client stopped reading")
            self.transport.abort()
        elif self._waits_for_turn:  # we are the ones who are waiting
            self._since_s = now_s
        elif self._phase is not Phase.HEAD:
            if self.flow.read_paused:
                self._since_s = now_s
            elif now_s - self._since_s > self._settings.body_timeout_s + self._body_bytes / _BODY_BYTES_PER_S:
                self._note("dropped a request because its body took too long")
                self._refuse(408, "the body of the request took too long")
        elif not self._is_answering():
            if self._held or self._overhead_bytes:
                if now_s - self._since_s > self._settings.head_timeout_s:
                    self._note("dropped a request because its head took too long")
                    self._refuse(408, "the head of the request took too long")
            elif self.cycle is None and now_s - self._since_s > self._settings.idle_timeout_s:
                self.retire()  # uvicorn's own timer starts with the first response

    def _stopped_reading(self, now_s: float) -> bool:
        """Whether the client has read nothing of its response for too long."""
        waits = self.flow.write_paused or not self._is_answering()
        unsent_bytes = self.transport.get_write_buffer_size() if waits else 0
        unread_s = self._reader.unread_s(unsent_bytes, now_s)
        return unsent_bytes > 0 and unread_s >= self._settings.reader_timeout_s

    def _note(self, event: str) -> None:
        self._all.note(event, "from a local socket" if self.client is None else f"from {self.client[0]}")
