"""The settings of the HTTP server."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("HttpSettings",)


class HttpSettings(Value, frozen=True, kw_only=True):
    """Where the server listens, which clients it answers, and what it accepts from them.

    `origins` are browser origins that are allowed besides local ones (``OLLAMA_ORIGINS``); each may contain one ``*``.
    `max_body_bytes` limits a request body: a larger one is answered 413 without being read. `max_head_bytes` limits
    everything else in a request: request line, headers, trailers, chunk extensions. `max_connections` limits open
    connections; the limit of open files may allow fewer.

    Clients that exceed a timeout are disconnected; `inf` means no limit. `head_timeout_s` is the time for a request's
    head, from its first byte or from the start of the connection. `body_timeout_s` is the time for its body, plus a
    second for every KiB received. `idle_timeout_s` is the time until the next request of a connection.
    `reader_timeout_s` is how long a client may read nothing of its response. `shutdown_grace_s` is how long requests
    may continue after SIGTERM before they are cancelled.
    """

    host: str = "127.0.0.1"
    port: int = 11434
    unix_socket: str | None = None
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 64 * 1024 * 1024
    max_head_bytes: int = 1024 * 1024
    max_connections: int = 2048
    head_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    reader_timeout_s: float = 30.0
    shutdown_grace_s: int = 10
