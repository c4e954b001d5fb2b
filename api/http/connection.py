"""One client's connection: uvicorn's HTTP protocol with bounds on what a client may send, queue up or leave unread.

uvicorn parses whatever comes, queues requests that are sent ahead without bound, and waits for ever for a head, a body
or a reader. Here bytes are counted before they are parsed, and parsed in pieces that end where a head or a message
ends, so that a request is not even parsed before the one in front of it has been answered.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any

import httptools
import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from corral.api.http.connections import Connections
from corral.api.http.dialects import Dialects
from corral.api.http.disconnect import CLIENT_LEFT, READER_STALLED
from corral.api.http.errors import ApiError
from corral.api.http.settings import HttpSettings

__all__ = ("Connection",)

_END = b"\r\n\r\n"
_MOST_HEADERS = 1000
_HELD_BYTES = 64 * 1024
_UNSENT_BYTES = 16 * 1024
_TURN_BYTES = 16 * 1024
_TURN_PIECES = 256
_FREELY_FED_BYTES = 4096
_ALWAYS_HELD_BYTES = 16 * 1024
_MOST_CHUNKS = 262_144
_CHUNK_FRAMING_BYTES = 20  # sixteen digits and two line ends
_BODY_BYTES_PER_S = 1024
_STALLED_S = 1.0
_LINGER_S = 2.0


class _Phase(Enum):
    HEAD = auto()
    BODY = auto()
    CHUNKS = auto()


class _Refused(Exception):
    """Stops the parser; `Connection` knows why."""


def _has_left(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side. Whoever does not read is not told so by the event loop."""
    closed = getattr(select, "POLLRDHUP", 0)
    sock = transport.get_extra_info("socket")
    if not closed or sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), closed)
    return bool(poll.poll(0))


class _Flow(FlowControl):
    """Reading stays paused while the connection holds enough that it may not parse yet."""

    holding = False

    def resume_reading(self) -> None:
        if not self.holding:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """A protocol of uvicorn's, made by `uvicorn.Server` for each connection."""

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
        super().__init__(config, server_state, app_state, _loop)
        self._settings = settings
        self._all = connections
        self._dialects = dialects
        self._refusal: tuple[int, str] | None = None
        self._is_refused = False
        self._lingering: asyncio.TimerHandle | None = None

        # What came and is not parsed yet.
        self._held = bytearray()
        self._searched = 0
        self._tail = b""
        self._counted_bytes = 0
        self._waits_for_turn = False

        # The request that is being read.
        self._phase = _Phase.HEAD
        self._overhead_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._content_length = 0
        self._is_upgrade = False
        self._since_s = time.monotonic()

        # The answer that is being sent.
        self._unsent_bytes = 0
        self._unread_since_s = 0.0
        self._on_stalled: Callable[[], None] | None = None
        self._on_left: Callable[[], None] | None = None

    # ── The transport's side ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # While a writer waits, what is unsent can only become less: that tells a slow reader from none.
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
            self.cycle.body = bytearray()  # nobody gets it, and an error's traceback may keep the request for long
        if self._on_left is not None:
            self._on_left()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._is_refused:
            return  # read and forgotten, so that the client can see why
        if not self._is_answering():
            if self._phase is _Phase.HEAD and not self._overhead_bytes and not self._held:
                self._since_s = time.monotonic()
            self._all.wait_for(self)
        self._held += data
        if not self._waits_for_turn:
            self._parse()
        else:
            self._balance()

    # ── Parsing, a piece at a time ────────────────────────────────────────────────────────────────────────────────

    def _is_answering(self) -> bool:
        """Whether a whole request is being answered: nothing is parsed meanwhile."""
        return self._phase is _Phase.HEAD and self.cycle is not None and not self.cycle.response_complete

    def _parse(self) -> None:
        self._waits_for_turn = False
        pieces = size_bytes = 0
        while self._held and not self._is_refused and not self.transport.is_closing() and not self._is_answering():
            if pieces >= _TURN_PIECES or size_bytes >= _TURN_BYTES:  # other connections get a turn
                self._wait_for_turn()
                break
            length = self._piece_bytes()
            if not length:
                if self._overhead_bytes + len(self._held) > self._settings.max_head_bytes:
                    self._refuse_head(self._settings.max_head_bytes)
                break
            with memoryview(self._held) as held:
                piece = bytes(held[:length])
            del self._held[:length]
            self._searched = 0
            pieces += 1
            size_bytes += length
            self._feed(piece)
        self._balance()

    def _piece_bytes(self) -> int:
        """How much of what is held may be parsed at once: at most to the end of a head or of a message."""
        held = self._held
        if self._phase is _Phase.BODY:
            return min(len(held), self._content_length - self._body_bytes)
        if self._tail:
            near = (self._tail + held[:3]).find(_END)
            if near >= 0:
                return near + len(_END) - len(self._tail)
        end = held.find(_END, max(0, self._searched - 3))
        if end >= 0:
            return end + len(_END)
        self._searched = len(held)
        # The parser joins the parts of a long header, each time anew: it gets the beginning, and the rest in one piece.
        if self._phase is _Phase.HEAD:
            return min(len(held), max(0, _FREELY_FED_BYTES - self._overhead_bytes))
        if self._overhead_bytes > _FREELY_FED_BYTES and len(held) < min(self._overhead_bytes // 8, _HELD_BYTES // 2):
            return 0
        return min(len(held), _TURN_BYTES)

    def _feed(self, piece: bytes) -> None:
        phase = self._phase
        if phase is _Phase.BODY and self._is_upgrade:
            self.on_body(piece)
            if self._body_bytes >= self._content_length:
                self._end_message()
            return
        limit_bytes = self._settings.max_head_bytes
        if phase is _Phase.HEAD:
            self._overhead_bytes += len(piece)
            if self._overhead_bytes > limit_bytes:
                self._refuse_head(limit_bytes)
                return
        if phase is not _Phase.BODY:
            self._tail = b"" if piece.endswith(_END) else (self._tail + piece[-3:])[-3:]
        body_bytes, framing_bytes = self._body_bytes, self._framing_bytes
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # to what, is the client's offer: the request is answered as it is
        except httptools.HttpParserError as error:
            if self._refusal is None:
                self._note("refused a request that is not valid HTTP")
                reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
                self._refusal = (400, f"invalid HTTP request{reason}")
            self._refuse(*self._refusal)
            return
        if phase is _Phase.CHUNKS and self._phase is _Phase.CHUNKS:
            framing_bytes = self._framing_bytes - framing_bytes
            self._overhead_bytes += max(0, len(piece) - (self._body_bytes - body_bytes) - framing_bytes)
            if self._overhead_bytes > limit_bytes:
                self._refuse_head(limit_bytes)

    def _balance(self) -> None:
        """Stops reading while much is held, and counts what is held for all connections together."""
        if self._is_refused:
            return
        flow = self.flow
        assert isinstance(flow, _Flow)
        is_needed = self._phase is _Phase.HEAD and not self._waits_for_turn and not self._is_answering()
        if len(self._held) > _HELD_BYTES and not is_needed:
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
        self._on_stalled = self._on_left = None
        self.scope["extensions"] = {
            READER_STALLED: {"call": self._when_stalled},
            CLIENT_LEFT: {"call": self._when_left},
        }

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not _Phase.HEAD:
            return  # a trailer: too late to change the request that is being answered
        if len(self.headers) >= _MOST_HEADERS:
            self._note("refused a request with too many headers")
            self._stop(431, f"the request has more than {_MOST_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._stop(505, f"HTTP {version} is not supported; use HTTP/1.1")
        values: dict[bytes, list[bytes]] = {b"host": [], b"transfer-encoding": [], b"content-length": []}
        for name, value in self.headers:
            if name in values:
                values[name].append(value)
        hosts, codings, lengths = values.values()
        if len(hosts) > 1:
            self._stop(400, "the request has more than one Host header")
        if not hosts and version == "1.1":
            self._stop(400, "the request has no Host header")
        if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
            self._stop(501, "chunked is the only supported transfer encoding")
        super().on_headers_complete()
        self._is_upgrade = bool(self.parser.should_upgrade())
        if codings and self._is_upgrade:
            self._stop(400, "a request with a chunked body cannot be upgraded")
        self._content_length = int(lengths[0]) if lengths else 0
        self._phase = _Phase.CHUNKS if codings else _Phase.BODY
        self._overhead_bytes = self._body_bytes = self._framing_bytes = 0
        self._since_s = time.monotonic()

    def on_chunk_header(self) -> None:
        self._framing_bytes += _CHUNK_FRAMING_BYTES
        if self._framing_bytes > _MOST_CHUNKS * _CHUNK_FRAMING_BYTES:
            self._note("a request was refused for its many chunks")
            self._stop(413, f"the body comes in more than {_MOST_CHUNKS} chunks; send larger ones")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # For a request with an upgrade, which many clients offer, the parser leaves the body to us.
        if not (self._is_upgrade and self._body_bytes < self._content_length):
            self._end_message()

    def _end_message(self) -> None:
        super().on_message_complete()
        self._phase = _Phase.HEAD
        self._overhead_bytes = 0
        self._tail = b""
        if self._is_answering():
            self._all.work_for(self)
        else:
            self._since_s = time.monotonic()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_refused or self.transport.is_closing():
            return
        if self._phase is _Phase.HEAD:
            self._since_s = time.monotonic()
        self._all.wait_for(self)
        if self._held and not self._waits_for_turn:
            self._unset_keepalive_if_required()
            self._wait_for_turn()

    # ── Giving up ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _stop(self, status: int, text: str) -> None:
        """From within the parser, which does not let an exception through as it is."""
        self._refusal = (status, text)
        raise _Refused

    def _refuse_head(self, limit_bytes: int) -> None:
        self._note("refused a request with too large a head")
        self._refuse(431, f"the head of the request is larger than the limit of {limit_bytes} bytes")

    def _refuse(self, status: int, text: str) -> None:
        """Answers with an error, if no answer has begun, and closes the connection once the client can have read it."""
        self._is_refused = True
        self._forget_held()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        reply = self._dialects.of(path).reply(ApiError(status, text))
        fields = {"content-type": reply.media_type, "content-length": len(reply.body), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        self.transport.write(STATUS_LINE[reply.status] + head.encode() + reply.body)
        # Closed with unread data, the connection would be reset, and many a client would not see the answer.
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
        """Only a stop of the server cancels a request. An answer that has no end then is broken off visibly."""
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            cycle.disconnected = True
            self.transport.close()

    # ── Standing still ────────────────────────────────────────────────────────────────────────────────────────────

    def _when_stalled(self, callback: Callable[[], None]) -> None:
        self._on_stalled = callback

    def _when_left(self, callback: Callable[[], None]) -> None:
        self._on_left = callback

    def check(self, now_s: float) -> None:
        if self._is_refused:
            return
        if self.flow.read_paused and _has_left(self.transport):
            self.transport.abort()
        elif self._stopped_reading(now_s):
            self._note("cut off an answer because its client stopped reading")
            self.transport.abort()
        elif self._waits_for_turn:  # it is us who stand still
            self._since_s = now_s
        elif self._phase is not _Phase.HEAD:
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
                self.retire()  # uvicorn's own timer begins with the first answer

    def _stopped_reading(self, now_s: float) -> bool:
        """Whether the client has taken nothing of what waits for it for too long. Tells the response beforehand."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if not unsent_bytes or not (self.flow.write_paused or not self._is_answering()):
            self._unsent_bytes = 0
            return False
        if not self._unsent_bytes or unsent_bytes < self._unsent_bytes:
            self._unread_since_s = now_s
        self._unsent_bytes = unsent_bytes
        unread_s = now_s - self._unread_since_s
        if unread_s >= _STALLED_S and self._on_stalled is not None:
            self._on_stalled()
        return unread_s >= self._settings.reader_timeout_s

    def _note(self, event: str) -> None:
        self._all.note(event, "from a local socket" if self.client is None else f"from {self.client[0]}")
