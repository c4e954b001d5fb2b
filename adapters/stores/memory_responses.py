"""Responses in memory, which end with the process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from corral.core.ports.responses import KeptResponse

__all__ = ("MemoryResponses",)


class MemoryResponses:
    """A `ResponseStore` for one event loop. `ttl_s` is the time since the last use; `clock_s` tells the time."""

    def __init__(
        self, *, max_count: int, max_bytes: int, ttl_s: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock_s = clock_s
        self._size_bytes = 0
        self._kept: OrderedDict[tuple[str, str], tuple[KeptResponse, float]] = OrderedDict()
        """With the time of the last use; those used least recently first, which is also the order they expire in."""

    async def put(self, response: KeptResponse) -> bool:
        self._drop_expired()
        self._pop(response.owner, response.id)
        if response.size_bytes > self._max_bytes or not self._max_count:
            return False
        self._kept[response.owner, response.id] = (response, self._clock_s())
        self._size_bytes += response.size_bytes
        while len(self._kept) > self._max_count or self._size_bytes > self._max_bytes:
            self._pop(*next(iter(self._kept)))
        return True

    async def get(self, owner: str, id: str) -> KeptResponse | None:
        self._drop_expired()
        found = self._kept.get((owner, id))
        if found is None:
            return None
        self._kept[owner, id] = (found[0], self._clock_s())
        self._kept.move_to_end((owner, id))
        return found[0]

    async def delete(self, owner: str, id: str) -> bool:
        self._drop_expired()
        return self._pop(owner, id)

    def _pop(self, owner: str, id: str) -> bool:
        found = self._kept.pop((owner, id), None)
        if found is None:
            return False
        self._size_bytes -= found[0].size_bytes
        return True

    def _drop_expired(self) -> None:
        since_s = self._clock_s() - self._ttl_s
        while self._kept and next(iter(self._kept.values()))[1] < since_s:
            self._pop(*next(iter(self._kept)))
