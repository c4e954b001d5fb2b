"""All connections of a server: how many may be open, which are closed to make room, and what is logged about them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Protocol

from corral.api.http.parse_turns import Turns
from corral.core.freed_memory import return_free_memory

__all__ = ("Connections", "Watched", "raise_file_limit")

_log = logging.getLogger("corral.http")

_MOST_FILES = 65_536
_RESERVED_FILES = 512
_LOG_EVERY_S = 10.0
_MANY_CLOSED = 32
_MOST_UNFINISHED_BYTES = 16 * 1024 * 1024


class Watched(Protocol):
    """What the other connections need to know about one."""

    def check(self, now_s: float) -> None:
        """Closes the connection if its client has been idle for too long. Called about once a second."""

    def retire(self) -> None:
        """Closes the connection at once, to make room for another."""


def raise_file_limit() -> int | None:
    """Raises this process's limit of open files as far as allowed, and returns it. None means no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _MOST_FILES if hard == unlimited else min(hard, _MOST_FILES)
    if soft != unlimited and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _log.warning("cannot raise the limit of %d open files: %s", soft, error)
        else:
            _log.debug("raised the limit on open files from %d to %d", soft, wanted)
            soft = wanted
    return None if soft == unlimited else soft


class Connections:
    """Keeps the number of connections below what the limit of open files allows. For one event loop.

    `max_files` is the process's limit of open files, None for no limit. Models, stores and upstreams need files too,
    so `reserved_files` of them are never used for clients. `turns` schedules connections with unparsed bytes.
    """

    def __init__(self, max_connections: int, max_files: int | None) -> None:
        self.reserved_files = _RESERVED_FILES if max_files is None else min(_RESERVED_FILES, max_files // 2)
        self.limit = max_connections if max_files is None else min(max_connections, max_files - self.reserved_files)
        if self.limit < max_connections:
            _log.warning(
                "accepting at most %d connections at once, because only %d files may be open", self.limit, max_files
            )
        self.turns = Turns()
        self._open: set[Watched] = set()
        self._waited_for: OrderedDict[Watched, None] = OrderedDict()
        self._refused: set[Watched] = set()
        self._most_open = 0  # since freed memory was last returned
        self._leaves_memory = False
        self._unfinished_bytes = 0
        self._counts: dict[str, int] = {}
        self._counted_since_s = time.monotonic()

    def admit(self, connection: Watched) -> bool:
        """Adds a connection. If there is no room, the longest idle one is closed; False if none is idle."""
        if len(self._open) >= self.limit:
            silent = next(iter(self._waited_for), None)
            if silent is None:
                self.note("refused a connection because all are busy", f"{self.limit} are open")
                return False
            self.note("closed the longest idle connection to make room", f"{self.limit} were open")
            self.forget(silent)
            silent.retire()
        self._open.add(connection)
        self._most_open = max(self._most_open, len(self._open))
        self._waited_for[connection] = None
        return True

    def refuse(self, connection: Watched) -> bool:
        """Whether a connection that was not admitted may stay open for a moment to get an error; `forget` ends that."""
        if len(self._refused) >= self.reserved_files // 4:
            return False
        self._refused.add(connection)
        return True

    def forget(self, connection: Watched) -> None:
        """The connection is closed. May be called twice."""
        self._open.discard(connection)
        self._refused.discard(connection)
        self._waited_for.pop(connection, None)

    def wait_for(self, connection: Watched) -> None:
        """The server is waiting for this client, which has just shown activity."""
        if connection in self._open:
            self._waited_for[connection] = None
            self._waited_for.move_to_end(connection)

    def work_for(self, connection: Watched) -> None:
        """A complete request has arrived: the connection is kept while it is answered."""
        self._waited_for.pop(connection, None)

    def hold(self, size_bytes: int) -> bool:
        """Counts bytes of incomplete requests; negative when they are complete. False if all hold too many."""
        self._unfinished_bytes += size_bytes
        return self._unfinished_bytes <= _MOST_UNFINISHED_BYTES

    def note(self, event: str, detail: str) -> None:
        """Logs a warning, at most one per kind of event in ten seconds. The others are counted."""
        seen = self._counts.get(event, 0)
        self._counts[event] = seen + 1
        if not seen:
            _log.warning("%s: %s", event, detail)

    def check(self) -> None:
        """Lets each connection check whether its client is idle. To be called about once a second."""
        now_s = time.monotonic()
        for connection in list(self._open):
            connection.check(now_s)
        if self._leaves_memory:  # a moment ago, so their requests have ended by now
            asyncio.get_running_loop().run_in_executor(None, return_free_memory)
        self._leaves_memory = self._most_open - len(self._open) >= _MANY_CLOSED
        if self._leaves_memory:  # closed connections leave many small blocks behind
            self._most_open = len(self._open)
        if now_s - self._counted_since_s >= _LOG_EVERY_S:
            counts, self._counts, self._counted_since_s = self._counts, {}, now_s
            for event, count in counts.items():
                if count > 1:
                    _log.warning("%s: %d times more", event, count - 1)
