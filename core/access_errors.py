"""Why a request is refused because of who makes it: nobody known, not allowed, too much.

CorralError
├── Unauthenticated             no credentials, or none that name anybody
├── Forbidden                   the principal may not do this
└── TooManyRequests             the principal has asked for too much; later it may ask again
"""

from __future__ import annotations

from corral.core.error_base import CorralError

__all__ = ("Forbidden", "TooManyRequests", "Unauthenticated")


class Unauthenticated(CorralError):
    """The request has no credentials, or none that name anybody."""

    code = "unauthenticated"


class Forbidden(CorralError):
    """The principal may not do this."""

    code = "forbidden"


class TooManyRequests(CorralError):
    """The principal has asked for too much. `retry_after_s` is when it may ask again."""

    code = "too_many_requests"

    def __init__(self, message: str, remedy: str | None = None, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, remedy)
        self.retry_after_s = retry_after_s
