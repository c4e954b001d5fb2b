"""A computed prefix that is kept outside of its engine's own memory."""

from __future__ import annotations

from typing import Any

from corral.adapters.engine_kit.prefixes.prefix_file import PrefixHead

__all__ = ("KeptPrefix",)


class KeptPrefix:
    """`packed` are the keys of its cells (see `KeyPacker`), `count` of them.

    `state` is what the engine saved, any writable buffer of bytes; None while it is only on disk. `note` is what the
    engine needs besides to restore it. `file` is the name of its file, None if it has none, and `head` what the file
    begins with. `passing`: the engine still holds the state itself, and it is here only to be written.
    """

    __slots__ = ("count", "file", "head", "note", "packed", "passing", "size_bytes", "state")

    def __init__(self, packed: bytes, count: int, note: bytes, size_bytes: int) -> None:
        self.packed = packed
        self.count = count
        self.note = note
        self.size_bytes = size_bytes
        self.state: Any = None
        self.file: str | None = None
        self.head: PrefixHead | None = None
        self.passing = False
