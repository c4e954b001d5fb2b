"""Dictionaries that drop the least recently used entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ("LruDict", "SizedLruDict")

K = TypeVar("K")
V = TypeVar("V")


class LruDict(Generic[K, V]):
    """Holds at most `capacity` entries. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """None if absent or dropped."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


class SizedLruDict(Generic[K, V]):
    """Holds entries of at most `capacity_bytes` in total. Thread-safe."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._size_bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """None if absent or dropped."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Drops other entries as needed. A value larger than the whole capacity is not kept."""
        with self._lock:
            _, replaced_bytes = self._entries.pop(key, (None, 0))
            self._size_bytes -= replaced_bytes
            if size_bytes > self._capacity_bytes:
                return
            self._entries[key] = (value, size_bytes)
            self._size_bytes += size_bytes
            while self._size_bytes > self._capacity_bytes:
                _, (_, forgotten_bytes) = self._entries.popitem(last=False)
                self._size_bytes -= forgotten_bytes
