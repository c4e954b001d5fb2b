"""Turns files, of this machine or from a source, into models of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec

from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.new_models import Part, file_model, folder_model, folder_name, weights_among
from corral.core.catalog.orphans import delete_unreferenced
from corral.core.catalog.publishing import BlobGone, ManifestPublisher, Published
from corral.core.errors import (
    CorralError,
    DigestMismatch,
    InvalidModelFile,
    InvalidRequest,
    NotFound,
)
from corral.core.models.digests import Digest
from corral.core.models.folders import scan_folder
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import ModelName, name_from_file
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.sources import FetchProgress, ModelSource, OnProgress, RemoteFile
from corral.core.wording.left_out import remarks

__all__ = ("ModelImporter",)

_PULL_ATTEMPTS = 3


class ModelImporter:
    """Blobs first, manifest last: a model is whole as soon as its name exists."""

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        publisher: ManifestPublisher,
        inspector: WeightsInspector,
        sources: Sequence[ModelSource],
        left_out: Mapping[str, str] = {},
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._publisher = publisher
        self._inspector = inspector
        self._sources = {source.scheme: source for source in sources}
        self._left_out = left_out

    async def name_of(self, path: Path) -> ModelName:
        """The name that `import_file` gives a file or folder that comes without one."""
        if await asyncio.to_thread(path.is_dir):
            files = await asyncio.to_thread(scan_folder, path)
            return folder_name(path, await asyncio.to_thread(folder_model, path, files))
        return name_from_file(path.name, self._known(await self._inspector.inspect(path), str(path)).file_type)

    async def import_file(self, path: Path, name: ModelName | None, on_progress: OnProgress) -> StoredModel:
        """A file of weights, or the folder of a model of several files."""
        if await asyncio.to_thread(path.is_dir):
            return await self._import_folder(path, name, on_progress)
        if not await asyncio.to_thread(path.is_file):
            raise NotFound(f"no such file: {path}")
        metadata = self._known(await self._inspector.inspect(path), str(path))
        weights_among([(str(path), metadata)])
        on_progress(FetchProgress(status=f"importing {path.name}"))
        adopted: list[Digest] = []

        async def store() -> Published:
            blob = await self._local.adopt(path)
            adopted.append(blob.digest)
            part = Part(file_name=path.name, blob=blob, metadata=metadata)
            return await self._put_parts((part,), name, on_progress)

        return await self._adopt_and_put(store, adopted, on_progress)

    async def _import_folder(self, path: Path, name: ModelName | None, on_progress: OnProgress) -> StoredModel:
        files = await asyncio.to_thread(scan_folder, path)
        model = await asyncio.to_thread(folder_model, path, files)
        name = name or folder_name(path, model)
        adopted: list[Digest] = []

        async def store() -> Published:
            kept = []
            for file in files:
                on_progress(FetchProgress(status=f"importing {file.path}"))
                blob = await self._local.adopt(Path(file.file))
                adopted.append(blob.digest)
                kept.append(
                    ModelFile(
                        role=file.role, media_type="", digest=blob.digest, size_bytes=blob.size_bytes, path=file.path
                    )
                )
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put_model(name, msgspec.structs.replace(model, files=tuple(kept)))

        return await self._adopt_and_put(store, adopted, on_progress)

    async def _adopt_and_put(
        self, store: Callable[[], Awaitable[Published]], adopted: list[Digest], on_progress: OnProgress
    ) -> StoredModel:
        """What `store` takes into the store goes again where it fails.

        It is called twice where somebody deleted a blob between its adoption and the manifest: one that an older model
        had, whose name got another model in this moment. The second time nothing can be deleted meanwhile.
        """
        try:
            try:
                put = await store()
            except BlobGone:
                async with self._manifests.guard(exclusive=False):
                    put = await store()
        except BaseException:
            with suppress(CorralError):  # garbage, then; the import's own fault is what matters
                await self._drop(adopted)
            raise
        await self._publisher.delete_replaced(put)
        on_progress(FetchProgress(status="success"))
        return put.record

    async def pull(self, reference: str, name: ModelName | None, on_progress: OnProgress) -> StoredModel:
        scheme, separator, _ = reference.partition("://")
        source = self._sources.get(scheme) if separator else None
        if source is None:
            known = ", ".join(f"{scheme}://" for scheme in sorted(self._sources))
            raise InvalidRequest(
                f"no source for {reference[:100]!r}",
                "; ".join(
                    (
                        f"references start with one of: {known or '(none)'}",
                        "to import a local file, use corral import",
                        *remarks(self._left_out, scheme),
                    )
                ),
            )
        fresh: list[tuple[RemoteFile, Digest]] = []
        async with source.resolve(reference, on_progress) as remote:
            try:
                put = await self._fetch_and_put(source, remote.files, name, fresh, on_progress)
            except BaseException as error:
                # What has a digest shortens the next attempt, unless it is no model at all.
                keep = not isinstance(error, InvalidModelFile)
                with suppress(CorralError):  # garbage, then; the pull's own fault is what matters
                    await self._drop([digest for file, digest in fresh if not (keep and file.digest == digest)])
                raise
        await self._publisher.delete_replaced(put)
        on_progress(FetchProgress(status="success"))
        return put.record

    async def _fetch_and_put(
        self,
        source: ModelSource,
        files: Sequence[RemoteFile],
        name: ModelName | None,
        fresh: list[tuple[RemoteFile, Digest]],
        on_progress: OnProgress,
    ) -> Published:
        for attempt in range(_PULL_ATTEMPTS):
            parts = tuple([await self._fetch(source, file, fresh, on_progress) for file in files])
            try:
                return await self._put_parts(parts, name, on_progress)
            except BlobGone:  # as in `_adopt_and_put`; only what is gone is fetched again
                if attempt == _PULL_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _fetch(
        self,
        source: ModelSource,
        file: RemoteFile,
        fresh: list[tuple[RemoteFile, Digest]],
        on_progress: OnProgress,
    ) -> Part:
        blob = await self._blobs.stat(file.digest) if file.digest else None
        if blob is None:
            if file.local_path is not None:
                blob = await self._local.adopt(file.local_path)
            else:
                blob = await self._stream(source, file, on_progress)
            fresh.append((file, blob.digest))
            if file.digest not in (None, blob.digest):
                raise DigestMismatch(
                    f'digest mismatch of {file.file_name}, expected "{file.digest}", got "{blob.digest}"',
                    "fetch it again",
                )
        metadata = self._known(await self._inspector.metadata(blob.digest), file.file_name)
        return Part(file_name=file.file_name, blob=blob, metadata=metadata)

    async def _stream(self, source: ModelSource, file: RemoteFile, on_progress: OnProgress) -> BlobInfo:
        writer = await self._blobs.begin(file.digest, file.size_bytes)
        try:
            offset = next((end for start, end in writer.written if start == 0), 0)
            async with aclosing(source.fetch(file, offset)) as chunks:
                async for chunk in chunks:
                    await writer.write(offset, chunk)
                    offset += len(chunk)
                    on_progress(
                        FetchProgress(
                            status=f"storing {file.file_name}",
                            digest=file.digest,
                            total_bytes=file.size_bytes,
                            completed_bytes=offset,
                        )
                    )
            on_progress(FetchProgress(status="verifying sha256 digest"))
            return await writer.commit()
        finally:
            await writer.close()

    async def _put_parts(self, parts: tuple[Part, ...], name: ModelName | None, on_progress: OnProgress) -> Published:
        weights = parts[weights_among([(part.file_name, part.metadata) for part in parts])]
        on_progress(FetchProgress(status="writing manifest"))
        name = name or name_from_file(weights.file_name, weights.metadata.file_type)
        return await self._publisher.put_model(name, file_model(parts, weights))

    async def _drop(self, digests: Sequence[Digest]) -> None:
        if digests:
            async with self._manifests.guard(exclusive=True):
                await delete_unreferenced(digests, manifests=self._manifests, blobs=self._blobs)

    def _known(self, metadata: ModelMetadata | None, file_name: str) -> ModelMetadata:
        if metadata is None:
            known = ", ".join(self._inspector.formats)
            raise InvalidModelFile(
                f"{file_name}: not a model file of a known format ({known})",
                "; ".join(remarks(self._left_out, file_name.rpartition(".")[2])) or None,
            )
        return metadata
