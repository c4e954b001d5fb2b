"""The port of the prefixes of prompts that engines have kept on disk: what there is, and how it is cleared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.values import Value

__all__ = ("KeptPrefixes", "PrefixDisk")


class KeptPrefixes(Value, frozen=True, kw_only=True):
    """The prefixes of one model: its name when they were written, their number, tokens and bytes on disk, and when one
    was last used, in seconds since 1970.
    """

    model: str
    weights: Digest
    entries: int
    tokens: int
    size_bytes: int
    used_at: float


class PrefixDisk(Protocol):
    """All prefixes that models of a store have on disk. Safe while models are loaded, here or in other processes."""

    async def list(self) -> Sequence[KeptPrefixes]:
        """The largest first."""
        ...

    async def clear(self, weights: Digest | None = None) -> tuple[int, int]:
        """Delete those of one model, or all: how many, and their bytes.

        Models that are loaded forget theirs too, in memory as well, within seconds. Raises `StorageError`.
        """
        ...
