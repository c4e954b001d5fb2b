"""Connections to hosts whose addresses have been checked: made to the very address that was, after it was resolved."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore

from corral.adapters.web.networks import AllowedNetworks
from corral.core.web_errors import AddressRefused, WebError

__all__ = ("CheckedConnections", "Resolve", "system_addresses")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host, in the order in which they should be tried. Raises `OSError`."""

_MOST_TRIED = 4


async def system_addresses(host: str, port: int) -> Sequence[str]:
    """Asks the system."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class CheckedConnections(httpcore.AsyncNetworkBackend):
    """What opens the sockets of an HTTP client: it resolves the host, checks all its addresses, and connects to one.

    The client goes on with the name: it is in ``Host`` and in the TLS handshake. `resolve`, by default
    the system, finds the addresses; `sockets` makes the connections.
    """

    def __init__(
        self,
        allowed: AllowedNetworks,
        resolve: Resolve | None = None,
        sockets: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._allowed = allowed
        self._resolve = resolve or system_addresses
        self._sockets = sockets or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises `AddressRefused` if one of the host's addresses is refused, and `WebError` if it has none."""
        addresses = await self._checked(host, port)
        for address in addresses[:-1]:
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._sockets.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def _checked(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as fault:
            raise WebError(f"there is no host {host}: {fault}", "check the address and the network") from fault
        if not addresses:
            raise WebError(f"there is no host {host}", "check the address and the network")
        for address in addresses:
            try:
                why = self._allowed.refusal(host, address)
            except ValueError as fault:  # an address with the name of a network interface
                raise AddressRefused(f"{host} is at {address}, which is not fetched from") from fault
            if why is not None:
                where = "" if address == host else f" is at {address}, which"
                raise AddressRefused(
                    f"{host}{where} is not on the public internet but {why}",
                    f'web.allow = ["{host}"] allows it, if that is intended',
                )
        return addresses[:_MOST_TRIED]

    async def connect_unix_socket(self, *arguments: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        raise AddressRefused("pages are not fetched from sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
