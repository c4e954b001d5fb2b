"""Slows down an address from which many wrong credentials come."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Awaitable, Callable

from corral.core.access_errors import TooManyRequests
from corral.core.lru import LruDict

__all__ = ("WrongTries",)

_FREE_TRIES = 10
_FORGIVEN_EVERY_S = 6.0
_PAUSE_S = 1.0
_MOST_PAUSED = 4
_REMEMBERED_ADDRESSES = 4096
_REMEMBERED_SECRETS = 4096
_NETWORK_BITS = 64
"""Of an IPv6 address: one customer has all the addresses below it."""


class _Address:
    """The tries of one address: `debt` decreases by one every six seconds."""

    __slots__ = ("at_s", "debt", "paused")

    def __init__(self, now_s: float) -> None:
        self.at_s = now_s
        self.debt = 0.0
        self.paused = 0

    def update(self, now_s: float) -> None:
        self.debt = max(0.0, self.debt - (now_s - self.at_s) / _FORGIVEN_EVERY_S)
        self.at_s = now_s


class WrongTries:
    """After ten wrong tries in a minute, further ones from this address wait for a second each, four at a time.

    So an address has four tries per second, on however many connections; what is tried beyond them is not looked at.
    Credentials that were right before never wait, wherever they come from: people behind one address do not
    suffer from each other. What is remembered is bounded. For one event loop, which is never blocked.
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

    async def wait(self, address: str, secret: str) -> None:
        """Returns when this try may be looked at. Raises `TooManyRequests` if too many wait already."""
        found = self._addresses.get(_place(address))
        if found is None or self._right.get(_digest(secret)):
            return
        found.update(self._clock_s())
        if found.debt < _FREE_TRIES:
            return
        if found.paused >= _MOST_PAUSED:
            raise TooManyRequests(
                "too many wrong keys came from this address", "try again later", retry_after_s=_PAUSE_S
            )
        found.paused += 1
        try:
            await self._sleep(_PAUSE_S)
        finally:
            found.paused -= 1

    def right(self, secret: str) -> None:
        """These credentials were right."""
        self._right.put(_digest(secret), True)

    def wrong(self, address: str) -> None:
        """Credentials from this address were wrong. Those that are missing are not."""
        place, now_s = _place(address), self._clock_s()
        found = self._addresses.get(place)
        if found is None:
            found = _Address(now_s)
            self._addresses.put(place, found)
        found.update(now_s)
        found.debt = min(found.debt + 1, 2 * _FREE_TRIES)


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
