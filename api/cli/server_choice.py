"""Decides whether a command works on a running server or in this process."""

from __future__ import annotations

from corral.api.cli.client import ServerClient
from corral.api.cli.output import echo
from corral.api.cli.session import Session

__all__ = ("running_server",)


def running_server(session: Session, instead: str) -> ServerClient | None:
    """The Corral server at the configured address; None if none is up.

    If another program answers at the default address, that and what is done `instead` is said. Raises `SourceError`
    if it answers at an address that the user has set.
    """
    server = session.server()
    state = server.state()
    if state == "foreign":
        if session.address_is_stated:
            raise server.foreign()
        echo(f"{server.who()} runs at {server.address.url}, not Corral: {instead}", err=True)
    return server if state == "corral" else None
