"""Reads the metadata of weights in a store: once per digest, then from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, cast

from corral.core.catalog.blob_access import BlobAccess
from corral.core.catalog.part_groups import PartFile
from corral.core.containment import beside
from corral.core.error_translation import map_errors
from corral.core.errors import BlobNotFound, InvalidModelFile
from corral.core.lru import LruDict
from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata
from corral.core.ports.blobs import BlobInfo, BlobStore
from corral.core.ports.metadata import (
    JoinedWeights,
    MetadataCache,
    MetadataReader,
    RandomAccess,
    SplitPart,
    SplitReader,
)
from corral.core.random_access import RandomAccessFile
from corral.core.wording.left_out import remarks

__all__ = ("Tensors", "WeightsInspector")

_REMEMBERED = 256  # models; a description is some kilobytes
_KEPT_PAIRS, _KEPT_CHARACTERS = 2048, 65_536  # of a description that is cached

T = TypeVar("T")
Tensors = list[tuple[str, str, tuple[int, ...]]]


class WeightsInspector:
    """Answers from memory, else from `cache`, else from the header of the weights, read in a thread.

    Everything raises `BlobNotFound` if the weights are gone or were changed outside of the store, `InvalidModelFile` if
    the header cannot be read, and `StorageError` if the store fails.
    """

    def __init__(
        self,
        *,
        blobs: BlobStore,
        readers: Sequence[MetadataReader],
        cache: MetadataCache | None = None,
    ) -> None:
        self._blobs = blobs
        self._readers = tuple(readers)
        self._cache = cache
        self._metadata: LruDict[Digest, ModelMetadata] = LruDict(_REMEMBERED)
        self._descriptions: LruDict[Digest, dict[str, object]] = LruDict(_REMEMBERED)

    def known(self, metadata: ModelMetadata | None, file_name: str, left_out: Mapping[str, str]) -> ModelMetadata:
        """`metadata` unless it is None; then raises `InvalidModelFile` that says that no reader knows the file.

        `left_out` has a sentence for each plugin that is not loaded.
        """
        if metadata is None:
            known = ", ".join(reader.format for reader in self._readers)
            raise InvalidModelFile(
                f"{file_name}: not a model file of a known format ({known})",
                "; ".join(remarks(left_out, file_name.rpartition(".")[2])) or None,
            )
        return metadata

    async def metadata(self, digest: Digest) -> ModelMetadata | None:
        """None if no reader knows the format."""
        info = await self._stat(digest)
        known = self._metadata.get(digest)
        if known is None and self._cache is not None:
            known = await self._cache.get(digest)
        if known is None:
            known = await self._of_blob(info, _read)
            if known is not None and self._cache is not None:
                await self._cache.put(digest, known)
        if known is not None:
            self._metadata.put(digest, known)
        return known

    async def describe(self, digest: Digest, *, verbose: bool) -> dict[str, object]:
        """The header's key-values, as `MetadataReader.describe`; empty if no reader knows the format."""
        info = await self._stat(digest)
        known = None if verbose else self._descriptions.get(digest)
        if known is None:
            known = await self._of_blob(info, lambda reader, source: reader.describe(source, verbose=verbose))
            if known is None:
                return {}
            if not verbose and _is_worth_keeping(known):
                self._descriptions.put(digest, known)
        return dict(known)

    async def tensors(self, digest: Digest) -> Tensors:
        """Name, type and shape of each tensor; empty if no reader knows the format."""
        info = await self._stat(digest)
        return await self._of_blob(info, lambda reader, source: reader.tensors(source)) or []

    async def inspect(self, path: Path) -> ModelMetadata | None:
        """As `metadata`, for a file that is in no store yet.

        A file whose suffix promises a format but whose content breaks it raises that format's `InvalidModelFile`.
        """

        def work() -> ModelMetadata | None:
            with RandomAccessFile(path) as source:
                return self._ask(source, _read)

        return await asyncio.to_thread(work)

    async def part(self, file: PartFile) -> SplitPart | None:
        """Which part of split weights the file is; None if it is whole, or in no format that can be split.

        Errors have the file's name.
        """

        def work(sources: Sequence[RandomAccess]) -> SplitPart | None:
            reader = self._splitting(sources[0])
            return None if reader is None else reader.part(sources[0])

        return await self._of_files([file], work)

    async def joined(self, parts: Sequence[PartFile]) -> JoinedWeights:
        """The file that the parts are together, whose header is read as well. Errors have the parts' names."""

        def work(sources: Sequence[RandomAccess]) -> JoinedWeights:
            reader = self._splitting(sources[0])
            if reader is None:
                raise InvalidModelFile(f"{sources[0].name} changed while it was being read", "try again")
            plan = reader.join(sources)
            self._ask(_Planned(sources[0].name, plan), _read)
            return plan

        return await self._of_files(parts, work)

    async def _of_files(self, files: Sequence[PartFile], work: Callable[[Sequence[RandomAccess]], T]) -> T:
        with ExitStack() as opened:
            sources: list[RandomAccess] = []
            for file in files:
                if isinstance(file.place, Path):
                    found = await asyncio.to_thread(RandomAccessFile, file.place)
                    found.name = file.name
                    sources.append(opened.enter_context(found))
                else:
                    blob = await self._stat(file.place)
                    sources.append(opened.enter_context(BlobAccess(self._blobs, blob, file.name)))

            def answer() -> T:
                with map_errors({Exception: InvalidModelFile}, f"{files[0].name}: the reader of its header failed"):
                    return work(sources)

            return await beside(answer)

    def _splitting(self, source: RandomAccess) -> SplitReader | None:
        """The reader that knows the file, if its format can be split. Blocking."""
        reader = next((reader for reader in self._readers if reader.recognises(source)), None)
        splits = all(callable(getattr(reader, method, None)) for method in ("part", "join"))
        return cast(SplitReader, reader) if splits else None  # a plugin's is wrapped, so that its class says nothing

    async def _of_blob(self, info: BlobInfo, question: Callable[[MetadataReader, RandomAccess], T]) -> T | None:
        # Not in the event loop's pool of threads: stores use it, and its threads could all be waiting for them.
        with BlobAccess(self._blobs, info) as source:
            return await beside(lambda: self._ask(source, question))

    def _ask(self, source: RandomAccess, question: Callable[[MetadataReader, RandomAccess], T]) -> T | None:
        """The answer of the reader that knows the file; None if none does. Blocking."""
        reader = next((reader for reader in self._readers if reader.recognises(source)), None)
        if reader is None:
            suffix = Path(source.name).suffix.lower()
            reader = next((reader for reader in self._readers if suffix == f".{reader.format}"), None)
        if reader is None:
            return None
        with map_errors({Exception: InvalidModelFile}, f"{source.name}: the {reader.format} reader failed"):
            return question(reader, source)

    async def _stat(self, digest: Digest) -> BlobInfo:
        info = await self._blobs.stat(digest)
        if info is None:
            raise BlobNotFound(
                f"the weights {digest} are missing from the store, or have changed since they were imported",
                "import or pull the model again",
            )
        return info


class _Planned:
    """The `RandomAccess` of weights that are not written yet: only their header can be read."""

    def __init__(self, name: str, plan: JoinedWeights) -> None:
        self.name = name
        self.size_bytes = plan.size_bytes
        self._header = plan.header

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return self._header[offset_bytes : offset_bytes + length_bytes]


def _read(reader: MetadataReader, source: RandomAccess) -> ModelMetadata:
    return reader.read(source)


def _is_worth_keeping(description: Mapping[str, object]) -> bool:
    texts = sum(len(value) for value in description.values() if isinstance(value, str))
    return len(description) <= _KEPT_PAIRS and texts <= _KEPT_CHARACTERS
