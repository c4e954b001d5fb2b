"""The settings of the HTTP server."""

from __future__ import annotations

from corral.core.values import Value

__all__ = ("HttpSettings",)


class HttpSettings(Value, frozen=True, kw_only=True):
    """How the server listens, whom it answers, and what it takes from a client.

    `origins` are browser origins allowed beside the local ones (``OLLAMA_ORIGINS``); one may hold a single ``*``.
    `max_body_bytes` bounds a request body: a bigger one is answered 413 without being read. `max_head_bytes` bounds
    everything in a request that is not its body: request line, headers, trailers, chunk extensions.
    `max_connections` bounds open connections; the limit of open files may allow fewer.

    A client that takes longer is disconnected; `inf` is no limit. `head_timeout_s` is for a request's head, from its
    first byte, or from the connection's start. `body_timeout_s` is for its body, plus a second for every KiB that has
    come. `idle_timeout_s` is for the next request of a connection. `reader_timeout_s` is how long a client may read
    nothing of an answer that waits for it. `shutdown_grace_s` is how long requests may go on after SIGTERM before
    they are cancelled.
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
