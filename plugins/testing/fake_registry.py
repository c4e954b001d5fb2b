"""`FakeRegistry`, an OCI registry on a free port of this machine, with logins and with faults that a test orders."""

from __future__ import annotations

import ssl

from corral.plugins.testing.fake_registry_protocol import RegistryHandler
from corral.plugins.testing.fake_registry_state import SeenRequest
from corral.plugins.testing.fake_server import FakeServer

__all__ = ("FakeRegistry",)


class FakeRegistry(FakeServer):
    """A `FakeServer` that speaks the protocol of OCI registries."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(RegistryHandler, tls)

    def requests(self, method: str, part: str = "") -> list[SeenRequest]:
        """Those with this method whose path contains `part`."""
        return [one for one in self.seen if one.method == method and part in one.path]
