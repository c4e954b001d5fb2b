"""Slows down an address from which many wrong credentials come."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from corral.core.access_errors import TooManyRequests, Unauthenticated
from corral.core.lru import LruDict

__all__ = ("WrongTries",)

T = TypeVar("T")

_FREE_TRIES = 10
_FORGIVEN_EVERY_S = 6.0
_PAUSE_S = 1.0
_MOST_PAUSED = 4
_REMEMBERED_ADDRESSES = 4096
_REMEMBERED_SECRETS = 4096
_NETWORK_BITS = 64
"""Of an IPv6 address: one customer has all the addresses below it."""


class _Address:
    """The tries of one address: `debt` decreases by one every six seconds. `undecided` tries may still turn out wrong.

    Whoever waits for one of them to be `decided` has the `gate`.
    """

    __slots__ = ("at_s", "debt", "decided", "gate", "paused", "undecided")

    def __init__(self, now_s: float) -> None:
        self.at_s = now_s
        self.debt = 0.0
        self.paused = 0
        self.undecided = 0
        self.decided = asyncio.Event()
        self.gate = asyncio.Lock()

    def update(self, now_s: float) -> None:
        self.debt = max(0.0, self.debt - (now_s - self.at_s) / _FORGIVEN_EVERY_S)
        self.at_s = now_s


class WrongTries:
    """After ten wrong tries in a minute, further ones from this address wait for a second each, four at a time.

    So an address has four tries per second, on however many connections; what is tried beyond them is not looked at.
    Tries that are being looked at count as wrong until it is known better: further ones wait for that. Credentials that
    were right before never wait, wherever they come from: people behind one address do not suffer from each other. What
    is remembered is bounded. For one event loop, which is never blocked.
    """

    def __init__(
        self,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock_s = clock_s
        self._sleep = sleep
        self._addresses: LruDict[str, _Address] = LruDict(_REMEMBERED_ADDRESSES)
        self._right: LruDict[bytes, bool] = LruDict(_REMEMBERED_SECRETS)

    async def examined(self, address: str, secret: str, look: Callable[[], Awaitable[T | None]]) -> T | None:
        """What `look` finds, which is called when this try may be looked at. None means that the secret is wrong.

        Raises `TooManyRequests` if too many wait already, and what `look` raises: `Unauthenticated` means wrong, too.
        """
        digest = _digest(secret)
        place = self._of(address)
        is_known = self._right.get(digest) is not None
        if not is_known:
            await self._wait(place)
            place.undecided += 1
        is_wrong = False
        try:
            found = await look()
            is_wrong = found is None
        except Unauthenticated:
            is_wrong = True
            raise
        finally:
            if is_wrong:
                place.debt = min(self._debt(place) + 1, 2 * _FREE_TRIES)
            if not is_known:
                place.undecided -= 1
                place.decided.set()
        if found is not None:
            self._right.put(digest, True)
        return found

    async def _wait(self, place: _Address) -> None:
        async with place.gate:
            while self._debt(place) < _FREE_TRIES <= place.debt + place.undecided:
                place.decided.clear()
                await place.decided.wait()
        if place.debt < _FREE_TRIES:
            return
        if place.paused >= _MOST_PAUSED:
            raise TooManyRequests(
                "too many wrong keys came from this address", "try again later", retry_after_s=_PAUSE_S
            )
        place.paused += 1
        try:
            await self._sleep(_PAUSE_S)
        finally:
            place.paused -= 1

    def _of(self, address: str) -> _Address:
        name = _place(address)
        found = self._addresses.get(name)
        if found is None:
            found = _Address(self._clock_s())
            self._addresses.put(name, found)
        return found

    def _debt(self, place: _Address) -> float:
        place.update(self._clock_s())
        return place.debt


def _place(address: str) -> str:
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if known.version == 4:
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, _NETWORK_BITS), strict=False))


def _digest(secret: str) -> bytes:
    """Of the secret, which is not kept itself."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
