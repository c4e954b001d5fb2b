"""The metadata ports: readers of weights headers, and a cache of what they found."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata

__all__ = ("MetadataCache", "MetadataReader")


class MetadataCache(Protocol):
    """Remembers what weights files say of themselves, by digest. Losing an entry costs time, nothing else."""

    async def get(self, digest: Digest) -> ModelMetadata | None:
        """None where unknown, or remembered by a version of Corral that knew other fields. Raises nothing."""
        ...

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        """Raises nothing: an entry that cannot be kept is forgotten."""
        ...


class MetadataReader(Protocol):
    """Reads one weights format's header. No native code; bounds-checked; big arrays are skipped."""

    @property
    def format(self) -> str: ...

    def recognises(self, path: Path) -> bool:
        """By content, never by name. False for a file that is missing or too short."""
        ...

    def read(self, path: Path) -> ModelMetadata:
        """Blocking: call it in a thread. Raises `InvalidModelFile` naming the file, the offset and what is wrong."""
        ...

    def describe(self, path: Path, *, verbose: bool) -> dict[str, object]:
        """The header's key-values for people. Arrays are None unless `verbose`. Blocking; raises as `read`."""
        ...

    def tensors(self, path: Path) -> builtins.list[tuple[str, str, tuple[int, ...]]]:
        """(name, type, shape) of each tensor, in file order. Blocking; raises as `read`."""
        ...
