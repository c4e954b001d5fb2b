"""The queue of requests that wait for an engine: those who ask take turns, however much each of them asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, zip_longest
from typing import Generic, TypeVar

from corral.core.lru import LruDict

__all__ = ("FairQueue",)

T = TypeVar("T")

_REMEMBERED = 4096


class FairQueue(Generic[T]):
    """Items in order of arrival for each owner, whom `owner_of` tells. Whose turn was longest ago is next.

    So an owner waits for at most one item of each other owner, whether those have one more or a thousand. With a single
    owner, it is an ordinary queue. For one thread.
    """

    def __init__(self, owner_of: Callable[[T], str]) -> None:
        self._owner_of = owner_of
        self._items: dict[str, deque[tuple[int, T]]] = {}
        self._turns: LruDict[str, int] = LruDict(_REMEMBERED)
        self._numbers = count(1)

    def append(self, item: T) -> None:
        self._items.setdefault(self._owner_of(item), deque()).append((next(self._numbers), item))

    def first(self) -> T:
        """The item that `popleft` would return. Raises `IndexError` if there is none."""
        return self._items[self._next_owner()][0][1]

    def popleft(self) -> T:
        """Raises `IndexError` if there is none."""
        owner = self._next_owner()
        _, item = self._items[owner].popleft()
        if not self._items[owner]:
            del self._items[owner]
        self._turns.put(owner, next(self._numbers))
        return item

    def remove(self, item: T) -> None:
        """Raises `ValueError` if it is not here."""
        owner = self._owner_of(item)
        left = deque(one for one in self._items.get(owner, ()) if one[1] is not item)
        if len(left) == len(self._items.get(owner, ())):
            raise ValueError("it does not wait")
        if left:
            self._items[owner] = left
        else:
            del self._items[owner]

    def clear(self) -> None:
        self._items.clear()

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[T]:
        """The items as they would leave if no others came."""
        owners = sorted(self._items, key=self._place)
        for turn in zip_longest(*(self._items[owner] for owner in owners)):
            for one in turn:
                if one is not None:
                    yield one[1]

    def _next_owner(self) -> str:
        if not self._items:
            raise IndexError("nothing waits")
        if len(self._items) == 1:
            return next(iter(self._items))
        return min(self._items, key=self._place)

    def _place(self, owner: str) -> tuple[int, int]:
        """When the owner had its last turn, and when its first item came."""
        return self._turns.get(owner) or 0, self._items[owner][0][0]
