"""Decides whether a command works through the server or in this process."""

from __future__ import annotations

from corral.api.cli.client import ServerClient
from corral.api.cli.output import echo
from corral.api.cli.session import Session

__all__ = ("server_in_use",)


def server_in_use(session: Session, command: str, doing: str) -> ServerClient | None:
    """The Corral server at the configured address, or None for this process; `doing` is what happens there instead.

    Raises `SourceError` if the user named the address and it is another program's.
    """
    server = session.server()
    state = server.state()
    if state == "foreign":
        if session.address_is_stated:
            raise server.foreign(f"{command} --local does it in this process")
        echo(f"{server.who()} runs at {server.address.url}, not Corral: {doing} in this process", err=True)
    return server if state == "corral" else None
