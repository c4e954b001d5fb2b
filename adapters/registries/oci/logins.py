"""Finds the login for a registry: Corral's own, Podman's, Docker's, or Hugging Face's token."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from corral.adapters.registries.oci.addressing import HUB_NAMES, HUGGING_FACE_NAMES, Place, is_hugging_face
from corral.adapters.registries.oci.auth_files import AuthFile, Login, read_auth_file
from corral.adapters.registries.oci.credential_helpers import ask_helper
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.system.blocking_work import in_thread
from corral.core.models.references import DOCKER_HUB
from corral.core.regular_files import open_regular

__all__ = ("Logins", "own_auth_file")

_TOKEN_BYTES = 4096


class Logins:
    """Files are read anew for every question: a login counts at once."""

    def __init__(self, settings: OciRegistrySettings, environment: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environment = environment

    async def find(self, place: Place) -> Login | None:
        """None if there is no login for this registry, or none that can be read."""
        hosts = _names(place)
        for path in self._files():
            file = await in_thread(lambda _, path=path: read_auth_file(path))  # type: ignore[misc]
            if file is not None and (found := await _in_file(file, hosts, place)) is not None:
                # Whoever logs in to Hugging Face has a token, which is shown as it is.
                return Login(secret=found.secret, kind="bearer") if is_hugging_face(place.host) else found
        if is_hugging_face(place.host):
            token = await in_thread(lambda _: self._hugging_face_token())
            return Login(secret=token, kind="bearer") if token else None
        return None

    def _files(self) -> Iterator[Path]:
        environment = self._environment
        yield own_auth_file(self._settings, environment)
        home = Path(environment.get("HOME") or Path.home())
        if stated := environment.get("REGISTRY_AUTH_FILE"):
            yield Path(stated)
        if runtime := environment.get("XDG_RUNTIME_DIR"):
            yield Path(runtime) / "containers" / "auth.json"
        yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"
        yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"

    def _hugging_face_token(self) -> str:
        environment = self._environment
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            if token := environment.get(name, "").strip():
                return token
        home = environment.get("HF_HOME")
        cache = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
        path = environment.get("HF_TOKEN_PATH") or Path(home or Path(cache) / "huggingface") / "token"
        with suppress(OSError), open_regular(Path(path).expanduser()) as file:
            return file.read(_TOKEN_BYTES).decode(errors="replace").strip()
        return ""


def own_auth_file(settings: OciRegistrySettings, environment: Mapping[str, str] = os.environ) -> Path:
    """The file that `corral login` writes."""
    if settings.credentials_file:
        return Path(settings.credentials_file).expanduser()
    home = Path(environment.get("HOME") or Path.home())
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "corral" / "credentials.json"


async def _in_file(file: AuthFile, hosts: tuple[str, ...], place: Place) -> Login | None:
    helper = file.helper(hosts)
    if helper is not None:
        # Docker asks helpers for its own registry by this address, and for others by their host.
        servers = (f"https://{_HUB_SERVER}", *hosts) if DOCKER_HUB in hosts else hosts
        if (found := await ask_helper(helper, servers)) is not None:
            return found
    return file.login(hosts, place.repository)


_HUB_SERVER = "index.docker.io/v1/"


def _names(place: Place) -> tuple[str, ...]:
    """The names under which a registry's logins are kept."""
    for known in (HUB_NAMES, HUGGING_FACE_NAMES):
        if place.host in known:
            return known
    return (place.host,)
