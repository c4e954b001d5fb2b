"""Reads the requests of one connection: counts bytes before parsing them, and parses them in pieces.

uvicorn parses everything it receives. Here a piece ends at the end of a head or of a message, so that no request is
parsed before the previous one has been answered.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from corral.api.http.head_checks import check_head
from corral.api.http.held_bytes import TURN_BYTES, HeldBytes
from corral.api.http.settings import HttpSettings

__all__ = ("Phase", "RequestReading")

_MOST_HEADERS = 1000
_TURN_PIECES = 256
_MOST_CHUNKS = 262_144
_LARGE_CHUNK_BYTES = 4096  # a body in chunks of this size, on average, may have any number of them
_CHUNK_FRAMING_BYTES = 20  # sixteen digits and two line breaks


class Phase(Enum):
    """What is read next."""

    HEAD = auto()
    BODY = auto()
    CHUNKS = auto()


class _Refused(Exception):
    """Stops the parser. The reason is in the protocol's `_refusal`."""


class RequestReading(HttpToolsProtocol):
    """uvicorn's protocol with limits on what is parsed. `Connection` adds everything else."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: HttpSettings,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings = settings
        self._refusal: tuple[int, str] | None = None
        self._is_refused = False
        self._held = HeldBytes()

        # The request that is being read.
        self._phase = Phase.HEAD
        self._overhead_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._content_length = 0
        self._is_upgrade = False
        self._since_s = time.monotonic()

    def _refuse(self, status: int, text: str) -> None:
        """Sends an error and reads no further requests."""
        raise NotImplementedError

    def _note(self, event: str) -> None:
        """Logs something that a client did."""
        raise NotImplementedError

    def _message_was_read(self) -> None:
        """Called when a request has been read completely. Its response may already be complete."""

    def _is_answering(self) -> bool:
        """Whether a complete request is being answered. Nothing is parsed until that is done."""
        return self._phase is Phase.HEAD and self.cycle is not None and not self.cycle.response_complete

    def _parse_some(self) -> bool:
        """Parses what may be parsed now. True if more could be parsed, but other connections should go first."""
        pieces = size_bytes = 0
        while self._held and not self._is_refused and not self.transport.is_closing() and not self._is_answering():
            if pieces >= _TURN_PIECES or size_bytes >= TURN_BYTES:
                return True
            if self._phase is Phase.BODY:
                length = min(len(self._held), self._content_length - self._body_bytes)
            else:
                length = self._held.next_length(self._overhead_bytes, in_head=self._phase is Phase.HEAD)
            if not length:
                if self._overhead_bytes + len(self._held) > self._settings.max_head_bytes:
                    self._refuse_head(self._settings.max_head_bytes)
                break
            pieces += 1
            size_bytes += length
            self._feed(self._held.take(length))
        return False

    def _feed(self, piece: bytes) -> None:
        phase = self._phase
        if phase is Phase.BODY and self._is_upgrade:
            self.on_body(piece)
            if self._body_bytes >= self._content_length:
                self._end_message()
            return
        limit_bytes = self._settings.max_head_bytes
        if phase is Phase.HEAD:
            self._overhead_bytes += len(piece)
            if self._overhead_bytes > limit_bytes:
                self._refuse_head(limit_bytes)
                return
        if phase is not Phase.BODY:
            self._held.parsed(piece)
        body_bytes, framing_bytes = self._body_bytes, self._framing_bytes
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # an offer by the client, which is ignored: the request is answered normally
        except httptools.HttpParserError as error:
            if self._refusal is None:
                self._note("refused a request that is not valid HTTP")
                reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
                self._refusal = (400, f"invalid HTTP request{reason}")
            self._refuse(*self._refusal)
            return
        if phase is Phase.CHUNKS and self._phase is Phase.CHUNKS:
            framing_bytes = self._framing_bytes - framing_bytes
            self._overhead_bytes += max(0, len(piece) - (self._body_bytes - body_bytes) - framing_bytes)
            if self._overhead_bytes > limit_bytes:
                self._refuse_head(limit_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not Phase.HEAD:
            return  # a trailer cannot change the request that is already being answered
        if len(self.headers) >= _MOST_HEADERS:
            self._note("refused a request with too many headers")
            self._stop(431, f"the request has more than {_MOST_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        facts = check_head(self.parser.get_http_version(), self.headers)
        if isinstance(facts, tuple):
            self._stop(*facts)
            return
        super().on_headers_complete()
        self._is_upgrade = bool(self.parser.should_upgrade())
        if facts.is_chunked and self._is_upgrade:
            self._stop(400, "a request with a chunked body cannot be upgraded")
        self._content_length = facts.content_length
        self._phase = Phase.CHUNKS if facts.is_chunked else Phase.BODY
        self._overhead_bytes = self._body_bytes = self._framing_bytes = 0
        self._since_s = time.monotonic()

    def on_chunk_header(self) -> None:
        self._framing_bytes += _CHUNK_FRAMING_BYTES
        chunks = self._framing_bytes // _CHUNK_FRAMING_BYTES
        if chunks > max(_MOST_CHUNKS, self._body_bytes // _LARGE_CHUNK_BYTES):
            self._note("a request was refused for its many chunks")
            self._stop(413, f"the body comes in more than {_MOST_CHUNKS} chunks; send larger ones")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # If a request offers an upgrade, as those of many clients do, the parser does not read the body.
        if not (self._is_upgrade and self._body_bytes < self._content_length):
            self._end_message()

    def _end_message(self) -> None:
        super().on_message_complete()
        self._phase = Phase.HEAD
        self._overhead_bytes = 0
        self._held.message_ended()
        self._message_was_read()

    def _stop(self, status: int, text: str) -> None:
        """Stops from within a parser callback, out of which exceptions do not pass unchanged."""
        self._refusal = (status, text)
        raise _Refused

    def _refuse_head(self, limit_bytes: int) -> None:
        self._note("refused a request with too large a head")
        self._refuse(431, f"the head of the request is larger than the limit of {limit_bytes} bytes")
