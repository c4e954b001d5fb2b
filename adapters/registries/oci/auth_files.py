"""Reads files of registry logins: Docker's ``config.json``, ``auth.json`` of Podman and others, and Corral's own."""

from __future__ import annotations

import base64
import binascii
import logging
import re
from pathlib import Path
from typing import Literal

import msgspec

from corral.core.malformed import MALFORMED
from corral.core.regular_files import open_regular
from corral.core.values import Value

__all__ = ("AuthFile", "Login", "login_from_helper", "read_auth_file")

_log = logging.getLogger(__name__)

_MOST_BYTES = 1024 * 1024
_TOKEN_USER = "<token>"


class Login(Value, frozen=True, kw_only=True):
    """`secret` is a password, a token to get tokens with (``refresh``), or one to show as it is (``bearer``)."""

    secret: str
    user: str = ""
    kind: Literal["password", "refresh", "bearer"] = "password"

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, kind={self.kind!r}, …)"  # keeps secrets out of logs and tracebacks

    @property
    def basic(self) -> str:
        """The value of ``Authorization`` for a password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


class _Entry(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


class _File(msgspec.Struct):
    auths: dict[str, _Entry] | None = None
    credHelpers: dict[str, str] | None = None  # the names in the file
    credsStore: str | None = None


class AuthFile:
    """The logins that one file has, by registry or repository, and the programs that it leaves others to."""

    def __init__(self, file: _File) -> None:
        self._entries = {_normal(name): entry for name, entry in (file.auths or {}).items()}
        self._helpers = {_normal(name): helper for name, helper in (file.credHelpers or {}).items()}
        self._store = file.credsStore or None

    def helper(self, hosts: tuple[str, ...]) -> str | None:
        """The program that has the logins of a registry, which goes by these names. None if there is none."""
        return next((self._helpers[host] for host in hosts if host in self._helpers), self._store)

    def login(self, hosts: tuple[str, ...], repository: str) -> Login | None:
        """The login of the longest part of the repository's path that the file names. None if it names none."""
        for host in hosts:
            path = f"{host}/{repository}".rstrip("/")
            while path:
                if path in self._entries and (found := _login(self._entries[path])) is not None:
                    return found
                path = path.rpartition("/")[0]
        return None


def read_auth_file(path: Path) -> AuthFile | None:
    """Blocks. None if there is no such file; one that cannot be read is logged, and counts as absent."""
    try:
        with open_regular(path) as file:
            return AuthFile(msgspec.json.decode(file.read(_MOST_BYTES), type=_File))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *MALFORMED) as fault:
        _log.warning("the logins in %s are not used: %s", path, fault)
        return None


def login_from_helper(user: str, secret: str) -> Login:
    """What a credential helper returns, which marks identity tokens by their user."""
    return Login(secret=secret, kind="refresh") if user == _TOKEN_USER else Login(user=user, secret=secret)


def _normal(name: str) -> str:
    """``https://index.docker.io/v1/`` and ``index.docker.io`` are the same."""
    name = re.sub(r"^https?://", "", name.strip().lower())
    return re.sub(r"/v[12]/?$", "", name).rstrip("/")


def _login(entry: _Entry) -> Login | None:
    if entry.registrytoken:
        return Login(secret=entry.registrytoken, kind="bearer")
    user, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=False).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        user, _, password = decoded.partition(":")
        password = password.rstrip("\0")
    if entry.identitytoken:
        return Login(user=user, secret=entry.identitytoken, kind="refresh")
    return Login(user=user, secret=password) if password else None
