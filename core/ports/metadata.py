"""The metadata ports: readers of weights headers, and a cache of what they found."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata
from corral.core.random_access import RandomAccess
from corral.core.values import Value

__all__ = (
    "JoinedRange",
    "JoinedWeights",
    "MetadataCache",
    "MetadataReader",
    "RandomAccess",
    "SplitPart",
    "SplitReader",
)


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


class SplitPart(Value, frozen=True, kw_only=True):
    """One of the `count` files that weights are split into. `number` begins at 0."""

    number: int
    count: int


class JoinedRange(Value, frozen=True, kw_only=True):
    """The bytes from `start` to `end` (excluded) of the part `number`, and so many zeros after them."""

    number: int
    start: int
    end: int
    padding_bytes: int = 0


class JoinedWeights(Value, frozen=True, kw_only=True):
    """The whole file that parts become: `header`, then the `ranges`."""

    header: bytes
    ranges: tuple[JoinedRange, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.header) + sum(one.end - one.start + one.padding_bytes for one in self.ranges)


class SplitReader(Protocol):
    """What a `MetadataReader` has as well if weights of its format can be split into several files.

    Both methods block: call them in a thread.
    """

    def part(self, source: RandomAccess) -> SplitPart | None:
        """None for weights that are whole. Raises `InvalidModelFile` if the header cannot be read, or the part does not
        say which one it is."""
        ...

    def join(self, sources: Sequence[RandomAccess]) -> JoinedWeights:
        """How to make one file of all parts, given in their order. Raises `InvalidModelFile`, with the name of the part
        that does not belong to the others."""
        ...
