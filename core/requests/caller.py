"""On whose behalf a request runs, and which servers it has passed on its way here."""

from __future__ import annotations

import re
from contextvars import ContextVar

from corral.core.values import Value

__all__ = ("PASSED_HEADER", "Principal", "passed_servers", "servers_in")

PASSED_HEADER = "x-corral-passed"
"""Between servers: the names that they have given themselves, commas between them."""

passed_servers: ContextVar[tuple[str, ...]] = ContextVar("passed_servers", default=())
"""Those of the request that the current task works for, this server's last. Empty outside of a server."""

_NAME = re.compile("[0-9a-f]{32}")
_MOST = 32


def servers_in(header: str) -> tuple[str, ...]:
    """The names in a header that anybody may have written; the last ones where there are many."""
    return tuple(_NAME.findall(header)[-_MOST:])


class Principal(Value, frozen=True, kw_only=True):
    """On whose behalf a use case runs. Anonymous until somebody authenticates."""

    id: str = "anonymous"
