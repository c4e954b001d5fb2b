"""Which computed prefixes are kept in host memory, and which one helps a prompt most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from corral.adapters.engine_kit.prefixes.kept_prefix import KeptPrefix
from corral.adapters.engine_kit.prefixes.packed_keys import KeyPacker
from corral.adapters.engine_kit.prefixes.prefix_tree import PrefixTree

__all__ = ("PrefixCache",)


class PrefixCache:
    """Prefixes by the keys of their cells: numbers, each of which, with those before it, determines what the engine has
    computed for the cell.

    States are kept in host memory up to `memory_bytes`; the least recently used ones are dropped. `divisible` says
    whether a restored state can be cut anywhere; if not, a prefix is of use only as a whole. One thread owns it.
    """

    def __init__(self, *, memory_bytes: int, divisible: bool) -> None:
        self.memory_bytes = memory_bytes
        self.divisible = divisible
        self._keys = KeyPacker()
        self._tree: PrefixTree[KeptPrefix] = PrefixTree()
        self._in_memory: OrderedDict[bytes, KeptPrefix] = OrderedDict()
        """The least recently used first."""
        self._memory_used = 0

    @property
    def memory_used(self) -> int:
        """Bytes of the states in memory."""
        return self._memory_used

    @property
    def memory_entries(self) -> int:
        return len(self._in_memory)

    def find(self, keys: Sequence[int], limit: int) -> tuple[KeptPrefix | None, int]:
        """The prefix that has the most keys in common with the beginning of `keys`, and how many of them; `limit` at
        most. Of equals, one in memory, and the smallest.
        """
        packed = self._keys.pack(keys if len(keys) <= limit else keys[:limit])
        if not self.divisible:
            whole = next(self._tree.beginnings_of(packed), None)
            return whole, 0 if whole is None else whole.count
        shared, found = self._tree.longest(packed)
        best = min(found, key=lambda entry: (entry.state is None, entry.size_bytes), default=None)
        return best, shared

    def keys(self, entry: KeptPrefix) -> list[int]:
        return self._keys.unpack(entry.packed)

    def used(self, entry: KeptPrefix) -> None:
        """The entry has helped: it is now the most recently used one."""
        if entry.packed in self._in_memory:
            self._in_memory.move_to_end(entry.packed)

    def fits(self, size_bytes: int) -> bool:
        """Whether a state of this size can be kept at all."""
        return 0 < size_bytes <= self.memory_bytes

    def put(self, keys: Sequence[int], note: bytes, state: Any) -> None:
        """Keep a state, until `shrink` at least. A prefix of a longer one is not kept, if states can be cut."""
        packed = self._keys.hold(keys)
        covering = next(self._tree.beginning_with(packed), None) if self.divisible else None
        if covering is not None:
            self._keys.release(packed)
            self.used(covering)
            return
        if self.divisible:
            for shorter in list(self._tree.beginnings_of(packed)):
                self._forget(shorter)
        entry = KeptPrefix(packed, len(keys), note, memoryview(state).nbytes)
        self._tree.add(packed, entry)
        self._hold_state(entry, state)

    def shrink(self) -> None:
        """Drop what is too much, the least recently used first."""
        while self._memory_used > self.memory_bytes:
            self._forget(next(iter(self._in_memory.values())))

    def clear(self) -> None:
        """Forget everything."""
        for entry in list(self._in_memory.values()):
            self._forget(entry)

    def _hold_state(self, entry: KeptPrefix, state: Any) -> None:
        entry.state = state
        self._in_memory[entry.packed] = entry
        self._memory_used += entry.size_bytes

    def _drop_state(self, entry: KeptPrefix) -> None:
        if self._in_memory.pop(entry.packed, None) is not None:
            entry.state = None
            self._memory_used -= entry.size_bytes

    def _forget(self, entry: KeptPrefix) -> None:
        self._drop_state(entry)
        self._tree.remove(entry.packed)
        self._keys.release(entry.packed)
