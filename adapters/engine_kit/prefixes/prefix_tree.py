"""Finds the kept prompt that has the longest beginning in common with another: a tree over blocks of keys.

A lookup follows whole blocks by their bytes, and then finds the longest common part of the next block among its sorted
neighbours. So its time depends on the length of the prompt, and hardly on the number of entries. All keys that are said
to be common have been compared: hashes only choose what to compare.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import chain, islice
from typing import Generic, TypeVar

from corral.adapters.engine_kit.prefixes.packed_keys import WIDTH, common_length

__all__ = ("PrefixTree",)

EntryT = TypeVar("EntryT")

_BLOCK_BYTES = 64 * WIDTH
_MOST_CANDIDATES = 8


class _Node(Generic[EntryT]):
    """What follows some whole blocks. Edges are blocks, or the shorter rests of entries, which end there."""

    __slots__ = ("edges", "entry", "order")

    def __init__(self) -> None:
        self.entry: EntryT | None = None
        self.edges: dict[bytes, _Node[EntryT]] = {}
        self.order: list[bytes] = []  # the edges, sorted: neighbours have the longest common beginnings

    def longest_part(self, rest: bytes) -> tuple[int, list[bytes]]:
        """How many keys of `rest` any edge begins with, and edges that begin with so many."""
        at = bisect_left(self.order, rest)
        near = self.order[max(0, at - 1) : at + 1]
        shared = max((common_length(edge, rest) for edge in near), default=0)
        if shared == 0:
            return 0, []
        near = self.order[max(0, at - _MOST_CANDIDATES) : at + _MOST_CANDIDATES]
        return shared, [edge for edge in near if edge.startswith(rest[: shared * WIDTH])]

    def beginnings_of(self, rest: bytes) -> Iterator[EntryT]:
        """The entries that end in edges which `rest` begins with, the longest first."""
        while rest:
            at = bisect_right(self.order, rest)
            if at == 0:
                return
            edge = self.order[at - 1]
            if rest.startswith(edge):
                entry = self.edges[edge].entry
                if entry is not None:
                    yield entry
                rest = edge[:-WIDTH]
            else:
                rest = rest[: common_length(edge, rest) * WIDTH]

    def all_entries(self) -> Iterator[EntryT]:
        """The entry here, and all below."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if node.entry is not None:
                yield node.entry
            waiting += node.edges.values()


class PrefixTree(Generic[EntryT]):
    """Entries by their packed keys (see `KeyPacker`)."""

    def __init__(self) -> None:
        self._root: _Node[EntryT] = _Node()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, packed: bytes, entry: EntryT) -> None:
        """Replaces an entry with the same keys."""
        node = self._root
        for edge in _blocks(packed):
            if edge not in node.edges:
                node.edges[edge] = _Node()
                insort(node.order, edge)
            node = node.edges[edge]
        self._count += node.entry is None
        node.entry = entry

    def remove(self, packed: bytes) -> None:
        """Raises `KeyError` if there is no such entry."""
        path = [self._root]
        edges = list(_blocks(packed))
        for edge in edges:
            path.append(path[-1].edges[edge])
        if path[-1].entry is None:
            raise KeyError(packed)
        path[-1].entry = None
        self._count -= 1
        for edge in reversed(edges):
            if path[-1].entry is not None or path[-1].edges:
                break
            path.pop()
            del path[-1].edges[edge]
            del path[-1].order[bisect_left(path[-1].order, edge)]

    def longest(self, packed: bytes) -> tuple[int, list[EntryT]]:
        """The most keys that any entry has in common with the prompt, and the entries that have so many.

        Of more than eight such entries, some are left out. Without any, (0, []).
        """
        path = self._path(packed)
        at = (len(path) - 1) * _BLOCK_BYTES
        part, edges = path[-1].longest_part(packed[at : at + _BLOCK_BYTES])
        shared = at // WIDTH + part
        if shared == 0:
            return 0, []
        nodes = [path[-1].edges[edge] for edge in edges] if part else path[-1:]
        entries = chain.from_iterable(node.all_entries() for node in nodes)
        return shared, list(islice(entries, _MOST_CANDIDATES))

    def beginnings_of(self, packed: bytes) -> Iterator[EntryT]:
        """All entries that the prompt begins with, the longest first. Change nothing meanwhile."""
        path = self._path(packed)
        for depth in reversed(range(len(path))):
            at = depth * _BLOCK_BYTES
            yield from path[depth].beginnings_of(packed[at : at + _BLOCK_BYTES - WIDTH])  # blocks are further nodes
            entry = path[depth].entry
            if entry is not None:
                yield entry

    def beginning_with(self, packed: bytes) -> Iterator[EntryT]:
        """All entries that begin with these keys. Change nothing meanwhile."""
        path = self._path(packed)
        rest = packed[(len(path) - 1) * _BLOCK_BYTES :]
        if not rest:
            yield from path[-1].all_entries()
        elif len(rest) < _BLOCK_BYTES:
            order = path[-1].order
            for at in range(bisect_left(order, rest), len(order)):
                if not order[at].startswith(rest):
                    break
                yield from path[-1].edges[order[at]].all_entries()

    def _path(self, packed: bytes) -> list[_Node[EntryT]]:
        """The root, and the nodes after each whole block that the prompt has in common with entries."""
        path = [self._root]
        for at in range(0, len(packed) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            node = path[-1].edges.get(packed[at : at + _BLOCK_BYTES])
            if node is None:
                break
            path.append(node)
        return path


def _blocks(packed: bytes) -> Iterator[bytes]:
    return (packed[at : at + _BLOCK_BYTES] for at in range(0, len(packed), _BLOCK_BYTES))
