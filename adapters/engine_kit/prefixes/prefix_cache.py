"""Which computed prefixes are kept in host memory and on disk, and which one helps a prompt most."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from corral.adapters.engine_kit.prefixes.kept_prefix import KeptPrefix
from corral.adapters.engine_kit.prefixes.packed_keys import KeyPacker, portable_keys
from corral.adapters.engine_kit.prefixes.prefix_file import PrefixHead
from corral.adapters.engine_kit.prefixes.prefix_files import PrefixFiles
from corral.adapters.engine_kit.prefixes.prefix_folder import StoredPrefix
from corral.adapters.engine_kit.prefixes.prefix_tree import PrefixTree
from corral.core.ports.running import PrefixTier

__all__ = ("PrefixCache",)

_SCAN_S = 1.0
"""How long the first request may wait until it is known what is on disk."""
_LOOK_S = 1.0
_MOST_WRITES = 2


class PrefixCache:
    """Prefixes by the keys of their cells: numbers, each of which, with those before it, determines what the engine has
    computed for the cell.

    States are kept in host memory up to `memory_bytes`; the least recently used ones are dropped. `divisible` says
    whether a restored state can be cut anywhere; if not, a prefix is of use only as a whole. With `files`, they outlive
    the process. One thread owns it.
    """

    def __init__(self, *, memory_bytes: int, divisible: bool, files: PrefixFiles | None = None) -> None:
        self.memory_bytes = memory_bytes
        self.divisible = divisible
        self.has_files = files is not None
        self._files = files
        self._keys = KeyPacker()
        self._tree: PrefixTree[KeptPrefix] = PrefixTree()
        self._in_memory: OrderedDict[bytes, KeptPrefix] = OrderedDict()
        """The least recently used first."""
        self._memory_used = 0
        self._disk: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._found = None if files is None else files.found
        self._reading: dict[KeptPrefix, Future[bytearray | None]] = {}
        self._writing: dict[KeptPrefix, Future[StoredPrefix | None]] = {}
        self._just_read: set[KeptPrefix] = set()
        self._failed_writes = 0
        self._looked_s = time.monotonic()

    # ── Finding ───────────────────────────────────────────────────────────────────────────────────────────────────

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

    def count_hit(self, entry: KeptPrefix) -> None:
        """A prompt has found its prefix here."""
        self._hits["disk" if entry in self._just_read else "memory"] += 1
        self._just_read.discard(entry)

    def tiers(self) -> tuple[PrefixTier, ...]:
        """Host memory and disk, as far as they are used at all."""
        memory = PrefixTier(
            name="memory", entries=len(self._in_memory), size_bytes=self._memory_used, hits=self._hits["memory"]
        )
        disk = PrefixTier(name="disk", entries=len(self._disk), size_bytes=self._disk.total(), hits=self._hits["disk"])
        return (memory,) * (self.memory_bytes > 0) + (disk,) * self.has_files

    # ── Keeping ───────────────────────────────────────────────────────────────────────────────────────────────────

    def fits(self, size_bytes: int) -> bool:
        """Whether a state of this size can be kept at all."""
        return 0 < size_bytes <= self.memory_bytes

    def put(self, keys: Sequence[int], note: bytes, state: Any, *, passing: bool = False) -> None:
        """Keep a state, until `shrink` at least. A prefix of a longer one is not kept, if states can be cut. One that
        is `passing` is kept until it is on disk.
        """
        packed = self._keys.hold(keys)
        longer = list(self._tree.beginning_with(packed))
        same = next((entry for entry in longer if entry.packed == packed), None)
        held = next((entry for entry in longer if entry.state is not None), None) if self.divisible else same
        if same is not None or held is not None:
            self._keys.release(packed)
            if held is not None and held.state is not None:
                self.used(held)
            elif same is not None:
                self._hold_state(same, state)
            return
        if self.divisible:
            for shorter in list(self._tree.beginnings_of(packed)):
                self._drop_state(shorter)  # its file stays until the longer one has been written
        entry = KeptPrefix(packed, len(keys), note, memoryview(state).nbytes)
        entry.passing = passing
        self._tree.add(packed, entry)
        self._hold_state(entry, state)

    def shrink(self) -> None:
        """Drop what is too much, the least recently used first. It is written before, unless too much is."""
        for entry in list(self._in_memory.values()):
            if self._memory_used <= self.memory_bytes:
                return
            if entry.passing or entry in self._writing:
                continue
            if self._needs_file(entry):
                self._write(entry)
            if entry in self._writing:
                entry.passing = True
            else:
                self._drop_state(entry)

    def clear(self) -> None:
        """Forget everything."""
        for entry in {*self._tree.beginning_with(b"")}:
            self._forget(entry)

    def _hold_state(self, entry: KeptPrefix, state: Any) -> None:
        entry.state = state
        self._in_memory[entry.packed] = entry
        self._memory_used += entry.size_bytes

    def _drop_state(self, entry: KeptPrefix) -> None:
        if self._in_memory.pop(entry.packed, None) is not None:
            entry.state = None
            self._memory_used -= entry.size_bytes
            self._just_read.discard(entry)
            if entry.file is None:
                self._forget(entry)

    def _forget(self, entry: KeptPrefix) -> None:
        if self._in_memory.pop(entry.packed, None) is not None:
            self._memory_used -= entry.size_bytes
        entry.state = None
        self._just_read.discard(entry)
        if entry.file is not None:
            del self._disk[entry.file]
            entry.file = None
        with suppress(KeyError):  # forgotten already
            self._tree.remove(entry.packed)
            self._keys.release(entry.packed)

    # ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def poll(self) -> bool:
        """Take in what the threads have read and written. False if the prefixes have been cleared: then all are
        forgotten, and the engine must forget its own.
        """
        if self._files is None:
            return True
        if self._found is not None:
            wait([self._found], _SCAN_S)
            if self._found.done():
                for stored in self._found.result():
                    self._add_stored(stored)
                self._found = None
        for entry, state in [(entry, done.result()) for entry, done in self._reading.items() if done.done()]:
            del self._reading[entry]
            if state is None:
                self._forget(entry)
            elif entry.file is not None and entry.state is None:
                self._hold_state(entry, state)
                self._just_read.add(entry)
        for entry, stored_now in [(entry, done.result()) for entry, done in self._writing.items() if done.done()]:
            del self._writing[entry]
            self._written(entry, stored_now)
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_S:
            self._looked_s = now
            if self._files.cleared():
                self.clear()
                return False
        return True

    def is_reading(self, entry: KeptPrefix) -> bool:
        """Whether the state is on its way from disk to memory. Begins to read it if it is only there."""
        if entry.state is None and entry.file is not None and entry not in self._reading:
            assert self._files is not None
            assert entry.head is not None
            self._reading[entry] = self._files.read(entry.file, entry.head)
        return entry in self._reading

    def wait(self, limit_s: float) -> None:
        """Wait until something has been read, but not longer than this."""
        wait(self._reading.values(), limit_s, "FIRST_COMPLETED")

    def write_next(self) -> bool:
        """Begin to write the most recently used prefix that is only in memory. False if there is none, or if two are
        being written.
        """
        if self._files is None or len(self._writing) >= _MOST_WRITES or self._failed_writes > _MOST_WRITES:
            return False
        for entry in reversed(self._in_memory.values()):
            if self._needs_file(entry):
                self._write(entry)
                return True
        return False

    @property
    def writing(self) -> bool:
        return bool(self._writing)

    def close(self, within_s: float) -> None:
        """Write what is only in memory, the most recently used first, as far as there is time. May be called twice."""
        if self._files is None:
            return
        self.poll()
        for entry in reversed(self._in_memory.values()):
            if self._needs_file(entry):
                self._write(entry, most=len(self._in_memory))
        self._files.close(list(self._writing.values()), within_s)
        self._files = None

    def _needs_file(self, entry: KeptPrefix) -> bool:
        if self._files is None or entry.file is not None or entry in self._writing:
            return False
        longer = self._tree.beginning_with(entry.packed) if self.divisible else ()
        return all(one.file is None for one in longer)

    def _write(self, entry: KeptPrefix, *, most: int = _MOST_WRITES) -> None:
        if self._files is None or len(self._writing) >= most:
            return
        keys, large = self._keys.portable(entry.packed)
        entry.head = PrefixHead(
            owner=self._files.owner,
            model=self._files.model,
            keys=keys,
            large=large,
            note=entry.note,
            state_bytes=entry.size_bytes,
        )
        self._writing[entry] = self._files.write(entry.head, entry.state)

    def _written(self, entry: KeptPrefix, stored: StoredPrefix | None) -> None:
        self._failed_writes = 0 if stored is not None else self._failed_writes + 1
        if stored is not None and entry.state is None and self._files is not None:
            self._files.remove(stored.name)  # forgotten meanwhile
        elif stored is not None:
            entry.file = stored.name
            self._disk[stored.name] = stored.size_bytes
            if self.divisible and self._files is not None:
                for shorter in list(self._tree.beginnings_of(entry.packed)):
                    if shorter is not entry and shorter.file is not None:
                        self._files.remove(shorter.file)
                        self._forget(shorter)
        if entry.passing:
            entry.passing = False
            self._drop_state(entry)

    def _add_stored(self, stored: StoredPrefix) -> None:
        try:
            keys = portable_keys(stored.head.keys, stored.head.large)
        except ValueError:
            return
        packed = self._keys.hold(keys)
        if next((one for one in self._tree.beginning_with(packed) if one.packed == packed), None) is not None:
            self._keys.release(packed)
            return
        entry = KeptPrefix(packed, len(keys), stored.head.note, stored.head.state_bytes)
        entry.file, entry.head = stored.name, stored.head
        self._disk[stored.name] = stored.size_bytes
        self._tree.add(packed, entry)
