"""Which ``Authorization`` a request to a registry carries, and which the second attempt does after a 401."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from corral.adapters.registries.oci.addressing import Place, is_hugging_face
from corral.adapters.registries.oci.auth_files import Login
from corral.adapters.registries.oci.challenges import Challenge, parse_challenges
from corral.adapters.registries.oci.token_requests import TokenServer
from corral.core.lru import LruDict

__all__ = ("Authorizer",)

_REMEMBERED = 256
_EARLY_S = 10.0
_EARLY_SHARE = 0.2
_READ_AGAIN_S = 60.0


class FindsLogins(Protocol):
    async def find(self, place: Place) -> Login | None: ...


_Key = tuple[str, str, str, tuple[str, ...]]


class Authorizer:
    """Remembers what each registry demands, and its tokens until shortly before they expire. `clock` is in seconds.

    A login is looked for only once a registry demands one.
    """

    def __init__(self, tokens: TokenServer, logins: FindsLogins, clock: Callable[[], float] = time.monotonic) -> None:
        self._token_server = tokens
        self._logins = logins
        self._clock = clock
        self._demands: LruDict[str, Challenge] = LruDict(_REMEMBERED)
        self._basic: LruDict[str, str] = LruDict(_REMEMBERED)
        self._tokens: LruDict[_Key, tuple[str, float]] = LruDict(_REMEMBERED)
        self._asking: LruDict[_Key, asyncio.Lock] = LruDict(_REMEMBERED)

    async def known(self, place: Place, base: str, scopes: tuple[str, ...]) -> str | None:
        """What the registry at `base` is known to demand. None if it is not known to demand anything."""
        demand = self._demands.get(base)
        if demand is None:
            return None
        if demand.scheme == "bearer":
            return await self._bearer(place, base, demand, _merged(scopes, ()), None)
        return self._basic.get(base)

    async def demanded(
        self, place: Place, base: str, scopes: tuple[str, ...], headers: Iterable[str], refused: str | None
    ) -> str | None:
        """What to show after a 401 with these ``WWW-Authenticate`` to a request that had shown `refused`.

        None if there is nothing else to show. Raises `SourceError` if no token is granted.
        """
        challenges = parse_challenges(headers)
        demand = next((one for one in challenges if one.scheme == "bearer" and one.realm), None)
        if demand is None and is_hugging_face(place.host):
            demand = Challenge(scheme="basic")
        demand = demand or next((one for one in challenges if one.scheme == "basic"), None)
        if demand is None:
            return None
        shown: str | None
        if demand.scheme == "bearer":
            shown = await self._bearer(place, base, demand, _merged(scopes, demand.scopes), refused)
        else:
            login = await self._logins.find(place)
            shown = None if login is None else _as_it_is(login)
            if shown is not None:
                self._basic.put(base, shown)
        if shown is None or shown == refused:
            return None
        self._demands.put(base, demand)
        return shown

    async def _bearer(
        self, place: Place, base: str, demand: Challenge, scopes: tuple[str, ...], refused: str | None
    ) -> str:
        key = (base, demand.realm, demand.service, scopes)
        lock = self._asking.get(key)
        if lock is None:
            self._asking.put(key, lock := asyncio.Lock())
        async with lock:  # whoever comes meanwhile gets the same token
            kept = self._tokens.get(key)
            if kept is not None and kept[1] > self._clock() and kept[0] != refused:
                return kept[0]
            login = await self._logins.find(place)
            asked_at = self._clock()
            if login is not None and login.kind == "bearer":
                self._tokens.put(key, (_as_it_is(login), asked_at + _READ_AGAIN_S))
                return _as_it_is(login)
            token = await self._token_server.token(place, base, demand, scopes, login)
            shown = f"Bearer {token.text}"
            early_s = min(_EARLY_S, token.life_s * _EARLY_SHARE)
            self._tokens.put(key, (shown, asked_at + token.life_s - early_s))
            return shown


def _as_it_is(login: Login) -> str:
    return login.basic if login.kind == "password" else f"Bearer {login.secret}"


def _merged(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """Each resource once, with all actions that either side names for it."""
    actions: dict[str, list[str]] = {}
    for scope in (*ours, *theirs):
        resource, separator, listed = scope.rpartition(":")
        if not separator:
            resource, listed = scope, ""
        wanted = actions.setdefault(resource, [])
        wanted += [action for action in listed.split(",") if action and action not in wanted]
    return tuple(f"{resource}:{','.join(listed)}" if listed else resource for resource, listed in actions.items())
