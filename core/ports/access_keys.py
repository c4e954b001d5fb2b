"""The port of access keys: creating, listing and revoking the keys of a server."""

from __future__ import annotations

from typing import Protocol

from corral.core.requests.principal import Principal
from corral.core.values import Value

__all__ = ("AccessKey", "AccessKeys")


class AccessKey(Value, frozen=True, kw_only=True):
    """A key, without its secret. `shown` is how it begins, enough to tell it from others.

    `created_at` and `expires_at` are in seconds since 1970; a key without `expires_at` never expires.
    """

    principal: Principal
    shown: str
    created_at: float
    expires_at: float | None = None


class AccessKeys(Protocol):
    """The keys of this machine's server. Changes are atomic, whichever processes make them at once."""

    async def create(self, principal: Principal, expires_at: float | None = None) -> str:
        """The new key itself, which nothing keeps. Its name is the principal's.

        Raises `Conflict` if the name is taken, `InvalidRequest` for a name that is empty, long or not printable, and
        `StorageError`.
        """
        ...

    async def list(self) -> list[AccessKey]:
        """All keys in the order of their names, expired ones as well. Raises `StorageError`."""
        ...

    async def revoke(self, name: str) -> bool:
        """Deletes the key of this name. False if there is none. Raises `StorageError`."""
        ...
