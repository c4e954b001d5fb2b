"""What every request goes through, even if no route is found: host and origin checks, CORS, who sends it, the log."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from corral.api.http.admission import Door, give_up_place
from corral.api.http.callers import keep_caller
from corral.api.http.dialects import Dialects
from corral.api.http.errors import ApiError, ErrorReply, Headers, asked_of
from corral.api.http.limit_headers import refusal_headers
from corral.api.http.origins import ALLOWED_HEADERS, ALLOWED_METHODS, OriginRules, host_is_local, is_loopback
from corral.api.http.request_log import RequestLog
from corral.api.http.settings import HttpSettings
from corral.core.errors import CorralError
from corral.core.requests.caller import PASSED_HEADER, Caller, servers_in
from corral.core.requests.principal import Principal
from corral.core.scheduling.resident import SHUTTING_DOWN

__all__ = ("AccessControl",)

_PREFLIGHT_AGE_S = 12 * 3600
_PASSED = PASSED_HEADER.encode()
_LOOP = "this server has already handled the request: an upstream model leads back to it"


class AccessControl:
    """Wraps the whole application, because Litestar's middleware only sees requests for known paths."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, dialects: Dialects, admission: Door) -> None:
        self._app = app
        self._admission = admission
        self._dialects = dialects
        self._origins = OriginRules(settings.origins)
        self._name = uuid.uuid4().hex
        # A server that other machines can reach anyway has nothing to protect from DNS rebinding.
        self._guards_hosts = settings.unix_socket is None and is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        log = RequestLog(scope)
        headers = {name: value for name, value in scope["headers"] if name in (b"origin", b"host", _PASSED)}
        origin = headers.get(b"origin", b"").decode("latin-1")
        host = headers.get(b"host", b"").decode("latin-1")
        passed = servers_in(headers.get(_PASSED, b"").decode("latin-1"))
        is_foreign = bool(origin) and origin not in (f"http://{host}", f"https://{host}")
        extra = _cors_headers(origin) if is_foreign else []
        id_header = self._dialects.of(*asked_of(scope)).request_id_header.encode("latin-1")

        def watched(message: Message) -> Awaitable[None]:
            # Not a coroutine function, because every chunk of a stream goes through here.
            if message["type"] == "http.response.start":
                log.status = message["status"]
                if id_header:
                    message["headers"] = _with_id(id_header, message["headers"], log)
                if extra:
                    message["headers"] = [*message["headers"], *extra]
            return send(message)

        try:
            if is_foreign and not self._origins.allows(origin):
                extra = []
                log.error = f"server.origins does not allow {origin}"
                await _fail(watched, self._dialects.forbidden(*asked_of(scope)))
            elif is_foreign and scope["method"] == "OPTIONS":
                extra += _PREFLIGHT_HEADERS
                await _answer(watched, 204, [])
            elif self._guards_hosts and not host_is_local(host):
                log.error = f"{host} does not name this machine, and only local names are answered on loopback"
                await _fail(watched, self._dialects.forbidden(*asked_of(scope)))
            elif scope["method"] == "OPTIONS":
                await _answer(watched, 204, [])
            elif self._name in passed:
                await _fail(watched, self._dialects.reply(*asked_of(scope), ApiError(508, _LOOP)))
            else:
                principal = await self._admission.principal(scope)
                keep_caller(scope, Caller(principal=principal, passed=(*passed, self._name)))
                await self._admitted(principal, extra, scope, receive, watched)
        except CorralError as error:  # of those who may not come in
            reply = self._dialects.reply(*asked_of(scope), error)
            extra += [(name.encode(), value.encode()) for name, value in refusal_headers(error).items()]
            await _fail(watched, reply)
        except asyncio.CancelledError:  # the server is stopping, and the grace period is over
            if log.status is not None:
                raise
            extra = []
            await _fail(watched, self._dialects.reply(*asked_of(scope), ApiError(503, SHUTTING_DOWN)))
        finally:
            log.write()

    async def _admitted(
        self, principal: Principal, extra: list[tuple[bytes, bytes]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Lets the application answer, within the limits of the principal. Raises `TooManyRequests`.

        `extra` gets the headers that say what is left of them.
        """
        try:
            self._admission.enter(principal, scope)
        finally:
            extra += self._admission.headers(scope, principal)
        try:
            await self._app(scope, receive, send)
        finally:
            give_up_place(scope)


_PREFLIGHT_HEADERS = [
    (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
    (b"access-control-allow-headers", ALLOWED_HEADERS.encode()),
    (b"access-control-max-age", str(_PREFLIGHT_AGE_S).encode()),
]


def _with_id(header: bytes, headers: Headers, log: RequestLog) -> list[tuple[bytes, bytes]]:
    """The headers with an id of the response; one that the dialect has written itself stays."""
    own = next((value for name, value in headers if name == header), None)
    request_id = own or f"req_{uuid.uuid4().hex}".encode()
    log.request_id = request_id.decode("latin-1")
    return [*headers] if own else [*headers, (header, request_id)]


def _cors_headers(origin: str) -> list[tuple[bytes, bytes]]:
    """For whoever is allowed: browsers show them the answer, and all of its headers, also those of plugins."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"Origin"),
    ]


async def _fail(send: Any, reply: ErrorReply) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.fields().items()]
    await _answer(send, reply.status, headers, reply.body)


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    if status != 204:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
