"""The authenticator port: whose request this is, by what it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from corral.core.requests.principal import Principal
from corral.core.values import Value

__all__ = ("Authenticator", "Credentials")


class Credentials(Value, frozen=True, kw_only=True):
    """What a request says about its sender. All of it is untrusted.

    `secret` is the key of ``Authorization: Bearer …``, or else of ``x-api-key``; None if the request has neither.
    `headers` are all headers by their names in lower case; of a header that occurs several times, the last. `address`
    is that of the client's end of the connection, empty for a Unix socket.
    """

    secret: str | None = None
    headers: Mapping[str, str] = {}
    address: str = ""

    def __repr__(self) -> str:
        return f"Credentials(address={self.address!r}, …)"  # keeps secrets out of logs and tracebacks


class Authenticator(Protocol):
    """Tells who sends a request. It is asked once for every request, before anything of its body has been read."""

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """The principal that these credentials name; None if they name nobody. To say why, raise `Unauthenticated`.

        What is revoked must stop to count within two seconds. Comparing secrets takes the same time, whatever they
        have in common. Must not block the event loop. Raises an error of Corral if it cannot tell: the request is then
        refused, and the error is logged.
        """
        ...

    async def aclose(self) -> None:
        """Closes what it has open. Called once, when the server has stopped."""
        ...
