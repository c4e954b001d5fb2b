"""Who a request comes from, and which servers it has passed on its way here."""

from __future__ import annotations

import re

from corral.core.requests.principal import EVERYONE, Principal
from corral.core.values import Value

__all__ = ("ANONYMOUS", "PASSED_HEADER", "Caller", "servers_in")

PASSED_HEADER = "x-corral-passed"
"""Sent between servers: the names that they have given themselves, separated by commas."""

_NAME = re.compile("[0-9a-f]{32}")
_MOST = 32


class Caller(Value, frozen=True, kw_only=True):
    """On whose behalf a request runs. The `principal` is `EVERYONE` unless a server asks who its callers are.

    `passed` are the servers that have handled the request, this one last: an upstream engine sends them on, so that
    servers which lead to each other end in an error instead of a loop. Empty outside of a server.
    """

    principal: Principal = EVERYONE
    passed: tuple[str, ...] = ()


ANONYMOUS = Caller()


def servers_in(header: str) -> tuple[str, ...]:
    """The server names in a header, which is untrusted; only the last ones if there are many."""
    return tuple(_NAME.findall(header)[-_MOST:])
