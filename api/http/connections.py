"""All connections of a server: how many may be open, which go when room is needed, and what the log says of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Protocol

from corral.api.http.freed_memory import return_free_memory
from corral.api.http.turns import Turns

__all__ = ("Connections", "Watched", "raise_file_limit")

_log = logging.getLogger("corral.http")

_MOST_FILES = 65_536
_RESERVED_FILES = 512
_LOG_EVERY_S = 10.0
_MANY_CLOSED = 32
_MOST_UNFINISHED_BYTES = 16 * 1024 * 1024


class Watched(Protocol):
    """A connection, as far as the others are concerned."""

    def check(self, now_s: float) -> None:
        """Closes the connection if its client has stood still for too long. Called about once a second."""

    def retire(self) -> None:
        """Closes the connection at once, to make room for another."""


def raise_file_limit() -> int | None:
    """Raises this process's limit of open files as far as it may go, and returns it; None if there is no limit."""
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

    `max_files` is the process's limit of open files, None for no limit. Models, stores and upstreams need files, too:
    `reserved_files` of them are never given to clients. `turns` are those of connections that hold more than is parsed.
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
        self._most_open = 0  # since freed memory was returned
        self._leaves_memory = False
        self._unfinished_bytes = 0
        self._counts: dict[str, int] = {}
        self._counted_since_s = time.monotonic()

    def admit(self, connection: Watched) -> bool:
        """Adds a connection. The one that has been silent longest goes if there is no room; False if none is silent."""
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
        """Whether a connection that was not admitted may stay for a moment, to be told why; `forget` ends it."""
        if len(self._refused) >= self.reserved_files // 4:
            return False
        self._refused.add(connection)
        return True

    def forget(self, connection: Watched) -> None:
        """The connection is closed. Twice is fine."""
        self._open.discard(connection)
        self._refused.discard(connection)
        self._waited_for.pop(connection, None)

    def wait_for(self, connection: Watched) -> None:
        """It is the client's turn, and it has just given a sign of life."""
        if connection in self._open:
            self._waited_for[connection] = None
            self._waited_for.move_to_end(connection)

    def work_for(self, connection: Watched) -> None:
        """A whole request has come: the connection is kept while it is answered."""
        self._waited_for.pop(connection, None)

    def hold(self, size_bytes: int) -> bool:
        """Counts bytes of requests that are not whole yet; negative once they are. False if all hold too many."""
        self._unfinished_bytes += size_bytes
        return self._unfinished_bytes <= _MOST_UNFINISHED_BYTES

    def note(self, event: str, detail: str) -> None:
        """A warning, at most one for an event in ten seconds: many clients may cause the same. The rest is counted."""
        seen = self._counts.get(event, 0)
        self._counts[event] = seen + 1
        if not seen:
            _log.warning("%s: %s", event, detail)

    def check(self) -> None:
        """Lets each connection look whether its client stands still. To be called about once a second."""
        now_s = time.monotonic()
        for connection in list(self._open):
            connection.check(now_s)
        if self._leaves_memory:  # a moment ago: their requests have ended by now
            asyncio.get_running_loop().run_in_executor(None, return_free_memory)
        self._leaves_memory = self._most_open - len(self._open) >= _MANY_CLOSED
        if self._leaves_memory:  # what they leave behind are many small blocks
            self._most_open = len(self._open)
        if now_s - self._counted_since_s >= _LOG_EVERY_S:
            counts, self._counts, self._counted_since_s = self._counts, {}, now_s
            for event, count in counts.items():
                if count > 1:
                    _log.warning("%s: %d times more", event, count - 1)
