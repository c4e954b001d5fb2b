"""The built-in authenticator against its port's suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.authenticators.key_texts import new_key
from corral.adapters.authenticators.keys import KeyAuthenticator
from corral.adapters.authenticators.settings import KeysSettings
from corral.core.ports.authenticators import Credentials
from corral.core.requests.principal import Principal
from corral.plugins.testing import AuthenticatorContract


class TestKeys(AuthenticatorContract):
    """Keys in a file."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> KeyFile:
        return KeyFile(tmp_path / "keys.json")

    @pytest.fixture
    def authenticator(self, file: KeyFile) -> KeyAuthenticator:
        return KeyAuthenticator(KeysSettings(file=str(file.path)))

    @pytest.fixture
    def right(self, file: KeyFile) -> Credentials:
        return Credentials(secret=asyncio.run(file.create(Principal(name="ann"))))

    @pytest.fixture
    def wrong(self, right: Credentials) -> Credentials:
        assert right.secret is not None
        return Credentials(secret=right.secret[:19] + new_key()[19:])  # the id of the key, with another secret

    @pytest.fixture
    def revoke(self, file: KeyFile) -> Callable[[], object]:
        return lambda: asyncio.run(file.revoke("ann"))
