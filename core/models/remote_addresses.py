"""Addresses of servers that run a model instead of this one, as Ollama's clients write them."""

from __future__ import annotations

import posixpath
from urllib.parse import urlsplit, urlunsplit

from corral.core.errors import InvalidRequest

__all__ = ("remote_address",)

_PORT = 11434


def remote_address(written: str) -> str:
    """The whole address: ``http`` if there is no scheme, Ollama's port if there is none.

    Raises `InvalidRequest` with Ollama's text.
    """
    if written.startswith("/"):
        written = f"localhost:{_PORT}{written}"
    try:
        parts = urlsplit(written if "://" in written else f"http://{written}")
        port = parts.port or _PORT
    except ValueError as error:
        raise InvalidRequest("bad remote", f"give its address, http://HOST:PORT, not {written[:100]!r}") from error
    if parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
        raise InvalidRequest("bad remote", f"give its address, http://HOST:PORT, not {written[:100]!r}")
    host = parts.hostname or "localhost"
    path = posixpath.normpath(parts.path).rstrip("/") if parts.path else ""
    return urlunsplit((parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", path, "", ""))
