"""The suite that every authenticator must pass: `AuthenticatorContract`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from corral.core.access_errors import Unauthenticated
from corral.core.ports.authenticators import Authenticator, Credentials
from corral.core.requests.principal import SCOPES, Principal

__all__ = ("AuthenticatorContract",)

_WITHIN_S = 2.0
_HOSTILE = ("", " ", "\x00", "x" * 100_000, "\u00ff\u00fe", "corral-", "{}", "' or 1=1 --", "../../etc/passwd")


class AuthenticatorContract:
    """Subclass it and provide the fixtures `authenticator`, `right`: credentials that name somebody, and `wrong`:
    credentials of the same form that name nobody. With a fixture `revoke`, a function that has the right ones
    revoked, the suite tests that this counts in time; it gets called in a thread.
    """

    @pytest.fixture
    def revoke(self) -> Callable[[], object] | None:
        return None

    def test_right_credentials_name_somebody(self, authenticator: Authenticator, right: Credentials) -> None:
        """The same principal every time, with a name and with scopes that exist."""

        async def ask() -> list[Principal | None]:
            return [await authenticator.authenticate(right) for _ in range(3)]

        first, *others = asyncio.run(ask())
        assert isinstance(first, Principal)
        assert first.name
        assert first.scopes <= frozenset(SCOPES)
        assert all(other == first for other in others)

    def test_wrong_credentials_name_nobody(self, authenticator: Authenticator, wrong: Credentials) -> None:
        """Nor do they keep the next ones from being right."""
        assert self._asked(authenticator, wrong) is None

    def test_no_credentials_name_nobody(self, authenticator: Authenticator) -> None:
        """A request that carries nothing comes from nobody."""
        assert self._asked(authenticator, Credentials()) is None

    @pytest.mark.parametrize("secret", _HOSTILE)
    def test_hostile_credentials_name_nobody(self, authenticator: Authenticator, secret: str) -> None:
        """Whatever the client sends is answered, not raised."""
        sent = Credentials(secret=secret, headers={"authorization": f"Bearer {secret}"}, address="192.0.2.1")
        assert self._asked(authenticator, sent) is None

    def test_many_ask_at_once(self, authenticator: Authenticator, right: Credentials, wrong: Credentials) -> None:
        """Nobody gets the answer for somebody else's credentials."""

        async def ask() -> list[Principal | None]:
            return await asyncio.gather(*(authenticator.authenticate(one) for one in (right, wrong) * 20))

        found = asyncio.run(ask())
        assert all(one is not None for one in found[::2])
        assert all(one is None for one in found[1::2])

    def test_what_is_revoked_stops_to_count(
        self, authenticator: Authenticator, right: Credentials, revoke: Callable[[], object] | None
    ) -> None:
        """After two seconds at the latest, without a restart."""
        if revoke is None:
            pytest.skip("there is no fixture `revoke`")

        async def ask() -> None:
            assert await authenticator.authenticate(right) is not None
            await asyncio.to_thread(revoke)
            in_time, ends_s = True, time.monotonic() + _WITHIN_S
            while in_time and await _found(authenticator, right) is not None:
                await asyncio.sleep(0.05)
                in_time = time.monotonic() < ends_s
            assert in_time or await _found(authenticator, right) is None

        asyncio.run(ask())

    @staticmethod
    def _asked(authenticator: Authenticator, credentials: Credentials) -> Principal | None:
        return asyncio.run(_found(authenticator, credentials))


async def _found(authenticator: Authenticator, credentials: Credentials) -> Principal | None:
    """None also where the authenticator says in an error why it knows nobody."""
    try:
        return await authenticator.authenticate(credentials)
    except Unauthenticated:
        return None
