"""The metadata ports: readers of weights headers, and a cache of what they found."""

from __future__ import annotations

import builtins
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccess

__all__ = ("MetadataCache", "MetadataReader", "RandomAccess")


class MetadataCache(Protocol):
    """Remembers the metadata of weights by digest. Losing an entry only costs time."""

    async def get(self, digest: Digest) -> ModelMetadata | None:
        """None if unknown, or written by a version of Corral with other fields. Never raises."""
        ...

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        """Never raises: an entry that cannot be stored is dropped."""
        ...


class MetadataReader(Protocol):
    """Reads the header of one weights format by ranges, so that a remote store need not fetch the weights.

    No native code; bounds-checked; big arrays are skipped. Every method blocks: call it in a thread.
    """

    @property
    def format(self) -> str: ...

    def recognises(self, source: RandomAccess) -> bool:
        """Whether this reader knows the file, judging by content, never by name. False for a file that is too short."""
        ...

    def read(self, source: RandomAccess) -> ModelMetadata:
        """Raises `InvalidModelFile` with the file's name, the offset and what is wrong there."""
        ...

    def describe(self, source: RandomAccess, *, verbose: bool) -> dict[str, object]:
        """The header's key-values for people. Arrays are None unless `verbose`. Raises as `read`."""
        ...

    def tensors(self, source: RandomAccess) -> builtins.list[tuple[str, str, tuple[int, ...]]]:
        """(name, type, shape) of each tensor, in file order. Raises as `read`."""
        ...
