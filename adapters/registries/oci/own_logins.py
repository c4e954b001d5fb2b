"""The logins that `corral login` keeps, in a file like Docker's that only its owner can read."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from corral.adapters.registries.oci.addressing import HUB_NAMES, Place, host_place, is_hugging_face
from corral.adapters.registries.oci.auth_files import Login
from corral.adapters.registries.oci.authorizing import Authorizer
from corral.adapters.registries.oci.connection_pool import ConnectionPool
from corral.adapters.registries.oci.exchange import RegistryExchange
from corral.adapters.registries.oci.logins import own_auth_file
from corral.adapters.registries.oci.ollama_key import OllamaKey
from corral.adapters.registries.oci.refusals import AccessDenied
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.registries.oci.token_requests import TokenServer
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import make_folder, replace_file, storage_errors
from corral.core.errors import InvalidRequest, SourceError, StorageError
from corral.core.malformed import MALFORMED
from corral.core.models.references import DOCKER_HUB, parse_reference
from corral.core.regular_files import open_regular

__all__ = ("OwnLogins",)

_MOST_BYTES = 1024 * 1024


class OwnLogins:
    """The `RegistryLogins` of a user. Connects only to check a login."""

    def __init__(self, settings: OciRegistrySettings, environment: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._path = own_auth_file(settings, environment)

    async def login(self, host: str, user: str, secret: str, *, insecure: bool = False) -> None:
        place = _place(host, insecure)
        await self._check(place, Login(user=user, secret=secret))
        entry = {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}
        await in_thread(lambda _: self._change(place.host, entry))

    async def logout(self, host: str) -> bool:
        place = _place(host, insecure=False)
        return await in_thread(lambda _: self._change(place.host, None))

    async def public_key(self) -> str:
        return await in_thread(lambda _: OllamaKey(self._settings.ollama_key).public_line())

    async def _check(self, place: Place, login: Login) -> None:
        """Asks the registry for nothing in particular, with this login."""
        pool = ConnectionPool(self._settings)
        try:
            shown = Login(secret=login.secret, kind="bearer") if is_hugging_face(place.host) else login
            tokens = TokenServer(pool, OllamaKey(self._settings.ollama_key))
            exchange = RegistryExchange(pool, Authorizer(tokens, _Only(shown)), self._settings.insecure)
            answer = await exchange.send(place, "GET", "/v2/", ())
            if answer.status in (401, 403) or answer.status >= 500:
                raise await exchange.refused(answer, place, place.host)
            await answer.aclose()
        except AccessDenied as error:
            remedy = f"{place.host} does not know this user name with this password; it may want a token instead"
            raise SourceError(error.message, remedy) from error
        finally:
            await pool.aclose()

    def _change(self, host: str, entry: dict[str, str] | None) -> bool:
        """Blocks. Whether there was an entry before."""
        with storage_errors("cannot write the logins"):
            content = _read(self._path)
            logins = content.setdefault("auths", {})
            if not isinstance(logins, dict):
                raise StorageError(f"{self._path} is not a file of logins", "correct or remove it")
            was_there = logins.pop(host, None) is not None
            if entry is not None:
                logins[host] = entry
            elif not was_there:
                return False
            make_folder(self._path.parent)
            data = msgspec.json.format(msgspec.json.encode(content), indent=2)
            replace_file(self._path, data, self._path.parent, mode=0o600)
            return was_there


class _Only:
    """One login, whoever asks."""

    def __init__(self, login: Login) -> None:
        self._login = login

    async def find(self, place: Place) -> Login | None:
        return self._login


def _place(host: str, insecure: bool) -> Place:
    bare = re.sub(r"^https?://|/(v[12]/?)?$", "", host.strip())
    try:
        named = parse_reference(f"oci://{bare if re.search('[.:]', bare) else f'{bare}:443'}/x").host
    except InvalidRequest as fault:
        raise InvalidRequest(f"not the host of a registry: {host[:100]!r}", "write it as HOST or HOST:PORT") from fault
    if not named or "/" in bare:
        raise InvalidRequest(f"not the host of a registry: {host[:100]!r}", "write it as HOST or HOST:PORT")
    return host_place(DOCKER_HUB if bare.lower() in HUB_NAMES else bare, insecure=insecure)


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = msgspec.json.decode(file.read(_MOST_BYTES), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except MALFORMED as fault:
        raise StorageError(f"{path} is not a file of logins: {fault}", "correct or remove it") from fault
    return content
