"""Which servers a request has passed, so that upstreams that lead in a circle are found out."""

from __future__ import annotations

import re
from contextvars import ContextVar

__all__ = ("PASSED_HEADER", "passed_servers", "servers_in")

PASSED_HEADER = "x-corral-passed"
"""Between servers: the names that they have given themselves, commas between them."""

passed_servers: ContextVar[tuple[str, ...]] = ContextVar("passed_servers", default=())
"""Those of the request that the current task works for, this server's last. Empty outside of a server."""

_NAME = re.compile("[0-9a-f]{32}")
_MOST = 32


def servers_in(header: str) -> tuple[str, ...]:
    """The names in a header that anybody may have written; the last ones where there are many."""
    return tuple(_NAME.findall(header)[-_MOST:])
