"""Errors of searching the web and of fetching its pages.

Unsupported
└── WebDisabled         no setting allows it
InvalidRequest
├── AddressRefused      an address that must not be fetched; the message says why
└── QueryTooLong        more characters than are searched for
CorralError
└── WebError            a search service or a web server failed, or sent what is not taken
    └── WebNotInstalled     the extra ``corral[web]`` is missing; the remedy is the pip line
"""

from __future__ import annotations

from corral.core.error_base import CorralError
from corral.core.errors import InvalidRequest, Unsupported

__all__ = ("AddressRefused", "QueryTooLong", "WebDisabled", "WebError", "WebNotInstalled")


class WebDisabled(Unsupported):
    """No setting allows the web to be searched, or its pages to be fetched."""

    code = "web_disabled"


class AddressRefused(InvalidRequest):
    """An address that is not fetched: malformed, of another protocol, or on a network that is not the public one."""

    code = "address_refused"


class QueryTooLong(InvalidRequest):
    """A query of more characters than are searched for."""

    code = "query_too_long"


class WebError(CorralError):
    """A search service or a web server cannot be reached, failed, or sent what is not taken."""

    code = "web_error"


class WebNotInstalled(WebError):
    """The packages for the web are missing."""

    code = "web_not_installed"
