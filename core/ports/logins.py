"""The login port: how this machine's user is known to registries."""

from __future__ import annotations

from typing import Protocol

__all__ = ("RegistryLogins",)


class RegistryLogins(Protocol):
    """The logins that registries are shown, and the key by which Ollama's registry knows this machine."""

    async def login(self, host: str, user: str, secret: str, *, insecure: bool = False) -> None:
        """Keeps a login for this registry if the registry accepts it. An earlier one is replaced.

        Raises `SourceError`, `StorageError`, and `InvalidRequest` if `host` is no host.
        """
        ...

    async def logout(self, host: str) -> bool:
        """Forgets the login for this registry. False if none was kept here. Raises as `login`."""
        ...

    async def public_key(self) -> str:
        """The public half of the key, as an account at Ollama takes it: ``ssh-ed25519 …``. Made if there is none.

        Raises `SourceError`.
        """
        ...
