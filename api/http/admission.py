"""Who may come in: tells who sends a request and keeps their limits, before anything of its body is read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Scope

from corral.api.http.callers import caller_of
from corral.api.http.limit_headers import limit_headers
from corral.core.access.limits import RateLimits
from corral.core.access.rules import require_scope
from corral.core.access.wrong_tries import WrongTries
from corral.core.access_errors import TooManyRequests, Unauthenticated
from corral.core.ports.authenticators import Authenticator, Credentials
from corral.core.requests.principal import EVERYONE, Principal

__all__ = ("OPEN", "Door", "give_up_place", "require_route_scope", "scope_of")

_log = logging.getLogger("corral.http")

OPEN = "open"
"""The ``opt["scope"]`` of a route that answers everybody, without asking who they are."""

_NOBODY = Principal(name="nobody", scopes=frozenset(), models=())
"""Whoever asks an open route of a server that otherwise asks who they are."""

_PLACE = "corral.place"

_HOW = "send a key as Authorization: Bearer KEY, or as x-api-key"


def scope_of(handler: BaseRouteHandler) -> str:
    """What a route asks of its callers: a scope, or ``open``. One that does not say it may do anything: ``admin``."""
    stated = handler.opt.get("scope")
    return stated if stated in (OPEN, "infer", "manage") else "admin"


async def require_route_scope(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of all routes. Raises `Forbidden`."""
    wanted = scope_of(handler)
    if wanted != OPEN:
        require_scope(caller_of(connection.scope).principal, wanted)  # type: ignore[arg-type]


def give_up_place(scope: Scope) -> None:
    """The request counts no more among those that its sender may have at once, because what it waits for counts."""
    leave: Callable[[], None] | None = scope["state"].pop(_PLACE, None)
    if leave is not None:
        leave()


class Door:
    """The door of a server. Without an `authenticator`, everyone is let in as `EVERYONE`."""

    def __init__(self, authenticator: Authenticator | None, limits: RateLimits) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._tries = WrongTries()
        self._open: frozenset[tuple[str, str]] = frozenset()

    def read_routes(self, app: Litestar) -> None:
        """Learns which routes are open. Call it once all routes are registered."""
        self._open = frozenset(
            (route.path, method)
            for route in app.routes
            if isinstance(route, HTTPRoute)
            for method, (handler, _) in route.route_handler_map.items()
            if scope_of(handler) == OPEN
        )

    async def principal(self, scope: Scope) -> Principal:
        """Who sends this request. Raises `Unauthenticated`, and `TooManyRequests` after many wrong tries."""
        if self._authenticator is None:
            return EVERYONE
        if (scope["path"], scope.get("method")) in self._open:
            return _NOBODY
        credentials, authenticator = _credentials(scope), self._authenticator
        secret = credentials.secret
        try:
            if secret is None:
                found = await authenticator.authenticate(credentials)
            else:
                found = await self._tries.examined(
                    credentials.address, secret, lambda: authenticator.authenticate(credentials)
                )
        except (Unauthenticated, TooManyRequests):
            raise
        except Exception as error:
            _log.error("cannot tell who sends a request: %s", error)
            raise
        if secret is None and found is None:
            raise Unauthenticated("this server asks for a key", _HOW)
        if found is None:
            raise Unauthenticated("the key is not valid", "it may be mistyped, revoked or expired")
        return found

    def enter(self, principal: Principal, scope: Scope) -> None:
        """A request of theirs begins, until `give_up_place`. Raises `TooManyRequests`; then it has not begun."""
        self._limits.enter(principal)
        scope["state"][_PLACE] = partial(self._limits.leave, principal)

    def headers(self, scope: Scope, principal: Principal) -> list[tuple[bytes, bytes]]:
        """What is left of their limits, as this client reads it."""
        return limit_headers(scope, self._limits.allowances(principal))


def _credentials(scope: Scope) -> Credentials:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    kind, _, token = headers.get("authorization", "").strip().partition(" ")
    secret = token.strip() if kind.lower() == "bearer" else ""
    client = scope.get("client")
    return Credentials(
        secret=secret or headers.get("x-api-key", "").strip() or None,
        headers=headers,
        address=client[0] if client else "",
    )
