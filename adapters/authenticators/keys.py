"""The built-in authenticator: keys that ``corral keys`` created, read anew when their file changes."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Mapping

from corral.adapters.authenticators.key_file import KeyFile, StoredKey
from corral.adapters.authenticators.key_texts import hash_of, id_of
from corral.adapters.authenticators.settings import KeysSettings, keys_path
from corral.adapters.system.blocking_work import in_thread
from corral.core.errors import CorralError
from corral.core.ports.authenticators import Credentials
from corral.core.requests.principal import Principal

__all__ = ("KeyAuthenticator",)

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_NOBODY = "0" * 64
"""What an unknown key is compared with, so that it takes as long as a known one."""


class KeyAuthenticator:
    """An `Authenticator`. The file is looked at once a second while requests come; if it cannot be read, nobody is
    let in. For one event loop."""

    def __init__(
        self,
        settings: KeysSettings | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._file = KeyFile(keys_path(settings or KeysSettings()))
        self._clock_s = clock_s
        self._wall_clock_s = wall_clock_s
        self._keys: Mapping[str, tuple[StoredKey, Principal]] = {}
        self._stamp: tuple[int, ...] | None = None
        self._looked_at_s: float | None = None
        self._looking = asyncio.Lock()

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        if credentials.secret is None:
            return None
        if self._is_old():
            async with self._looking:
                if self._is_old():
                    await self._look()
        key_id = id_of(credentials.secret)
        found = self._keys.get(key_id) if key_id is not None else None
        expected = _NOBODY if found is None else found[0].hash
        if not hmac.compare_digest(hash_of(credentials.secret), expected) or found is None:
            return None
        stored, principal = found
        if stored.expires_at is not None and self._wall_clock_s() >= stored.expires_at:
            return None
        return principal

    async def aclose(self) -> None:
        pass

    def _is_old(self) -> bool:
        return self._looked_at_s is None or self._clock_s() - self._looked_at_s >= _LOOK_EVERY_S

    async def _look(self) -> None:
        began_s = self._clock_s()
        stamp = await in_thread(lambda _: self._file.stamp())
        if stamp != self._stamp:
            try:
                keys = await in_thread(lambda _: self._file.read())
                self._stamp = stamp
            except CorralError as error:
                _log.error("no key is accepted: %s", error)
                keys, self._stamp = (), None
            self._keys = {one.id: (one, one.principal) for one in keys}
        self._looked_at_s = began_s
