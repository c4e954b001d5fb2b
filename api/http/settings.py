"""The settings of the HTTP server."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("HttpSettings",)


class HttpSettings(Value, frozen=True, kw_only=True):
    """How the server listens and whom it answers.

    `origins` are browser origins allowed beside the local ones (``OLLAMA_ORIGINS``); one may hold a single ``*``.
    `max_body_bytes` bounds a request body: a bigger one is answered 413 without being read. `shutdown_grace_s` is how
    long requests may go on after SIGTERM before they are cancelled.
    """

    host: str = "127.0.0.1"
    port: int = 11434
    unix_socket: str | None = None
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 64 * 1024 * 1024
    shutdown_grace_s: int = 10
