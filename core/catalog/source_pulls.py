"""Pulls models from sources, which have files and no manifests: Corral reads the files and writes the manifest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial

import msgspec

from corral.core.catalog.checkpoints import CHECKPOINT_SUFFIX
from corral.core.catalog.create_calls import CreateCall
from corral.core.catalog.fetching import BlobFetcher, BlobOrigin
from corral.core.catalog.given_files import GivenFileReader
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.joined_models import joined_before
from corral.core.catalog.joining import PartJoiner
from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.new_models import Part, file_model, folder_model, weights_among
from corral.core.catalog.new_weights import WeightsMaker
from corral.core.catalog.part_groups import PartFile
from corral.core.catalog.publishing import ManifestPublisher, Published, until_published
from corral.core.catalog.side_by_side import side_by_side
from corral.core.catalog.unused_blobs import discard_blobs
from corral.core.errors import InvalidModelFile
from corral.core.models.digests import Digest, digest_of
from corral.core.models.folders import scan_folder
from corral.core.models.model import Model, ModelFile, StoredModel
from corral.core.models.names import ModelName, name_from_file
from corral.core.models.split_names import is_split_name, whole_name
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.sources import FetchProgress, ModelSource, OnProgress, RemoteFile, SourceModel

__all__ = ("SourcePuller",)

_Fresh = list[tuple[RemoteFile | None, Digest]]
"""What a pull has added to the store; of None: what it made there itself."""


class SourcePuller:
    """`left_out` is for errors about a format that no reader knows."""

    def __init__(
        self,
        *,
        publisher: ManifestPublisher,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        inspector: WeightsInspector,
        fetcher: BlobFetcher,
        weights: WeightsMaker,
        lookup: ModelLookup,
        left_out: Mapping[str, str],
    ) -> None:
        self._lookup = lookup
        self._joiner = PartJoiner(blobs=blobs, inspector=inspector)
        self._fetcher = fetcher
        self._weights = weights
        self._publisher = publisher
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._inspector = inspector
        self._left_out = left_out

    async def pull(
        self, source: ModelSource, reference: str, name: ModelName | None, on_progress: OnProgress
    ) -> StoredModel:
        """Raises what `ModelSource` raises, `InvalidModelFile`, `OutOfSpace`."""
        fresh: _Fresh = []
        async with source.resolve(reference, on_progress) as remote:
            try:
                published = await self._fetch_and_publish(source, remote, name, fresh, on_progress)
            except BaseException as error:
                # A file with a known digest shortens the next attempt, unless it is not a model at all.
                keep = not isinstance(error, InvalidModelFile)
                useless = [digest for file, digest in fresh if not (keep and file and file.digest == digest)]
                await discard_blobs(useless, manifests=self._manifests, blobs=self._blobs)
                raise
        if any(_is_of_checkpoint(file) for file in remote.files):  # what was fetched for the conversion
            await discard_blobs([digest for _, digest in fresh], manifests=self._manifests, blobs=self._blobs)
        await self._publisher.delete_replaced(published)
        await discard_blobs(published.record.joined_from, manifests=self._manifests, blobs=self._blobs)
        on_progress(FetchProgress(status="success"))
        return published.record

    async def _fetch_and_publish(
        self,
        source: ModelSource,
        remote: SourceModel,
        name: ModelName | None,
        fresh: _Fresh,
        on_progress: OnProgress,
    ) -> Published:
        async def attempt() -> Published:
            if any(_is_of_checkpoint(file) for file in remote.files):
                converted_name, model = await self._checkpoint(source, remote, name, fresh, on_progress)
                on_progress(FetchProgress(status="writing manifest"))
                return await self._publisher.put_model(converted_name, model)
            if any(file.path is not None for file in remote.files):
                folder_name, model = await self._folder(source, remote, fresh, on_progress)
                on_progress(FetchProgress(status="writing manifest"))
                return await self._publisher.put_model(name or folder_name, model)
            split = sorted((file for file in remote.files if is_split_name(file.file_name)), key=lambda f: f.file_name)
            whole = [file for file in remote.files if file not in split]
            parts = await side_by_side([partial(self._part, source, file, fresh, on_progress) for file in whole])
            if split:
                parts.append(await self._joined(source, split, fresh, on_progress))
            weights = parts[weights_among([(part.file_name, part.metadata) for part in parts])]
            on_progress(FetchProgress(status="verifying sha256 digest"))
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put_model(
                name or name_from_file(weights.file_name, weights.metadata.file_type), file_model(parts, weights)
            )

        return await until_published(attempt)

    async def _checkpoint(
        self,
        source: ModelSource,
        remote: SourceModel,
        name: ModelName | None,
        fresh: _Fresh,
        on_progress: OnProgress,
    ) -> tuple[ModelName, Model]:
        """The model that the files become, and its name: what importing their folder would give."""
        name = name or name_from_file(f"{remote.name or 'model'}.gguf", remote.quantize)
        call = CreateCall(name=name, quantize=remote.quantize)
        files: dict[str, Digest] = {}
        for wanted in (False, True):  # the weights, which are large, last
            await self._weights.require(call, files)
            some = [file for file in remote.files if _is_of_checkpoint(file) is wanted]
            blobs = await side_by_side([partial(self._blob, source, file, fresh, on_progress) for file in some])
            files |= {file.path or file.file_name: blob.digest for file, blob in zip(some, blobs, strict=True)}
        on_progress(FetchProgress(status="verifying sha256 digest"))
        reader = GivenFileReader(blobs=self._blobs, local=self._local, inspector=self._inspector)
        try:
            model, _ = await self._weights.converted(call, files, reader, on_progress)
        finally:
            fresh += ((None, digest) for digest in reader.made)
        return call.name, model

    async def _joined(
        self, source: ModelSource, files: Sequence[RemoteFile], fresh: _Fresh, on_progress: OnProgress
    ) -> Part:
        """The parts of split weights as one file, unless the store has that already."""
        known = [file.digest for file in files if file.digest is not None]
        whole = whole_name(files[0].file_name)
        blob = await joined_before(self._lookup, self._blobs, known) if len(known) == len(files) else None
        if blob is None:
            stored = await side_by_side([partial(self._blob, source, file, fresh, on_progress) for file in files])
            known = [one.digest for one in stored]
            named = [PartFile(name=file.file_name, place=place) for file, place in zip(files, known, strict=True)]
            groups = await self._joiner.groups(named)
            if not groups:
                raise InvalidModelFile(f"{files[0].file_name} is a part by its name, but not by its header")

            def report(done: int, total: int) -> None:
                on_progress(FetchProgress(status=f"joining {whole}", total_bytes=total, completed_bytes=done))

            blob = await self._joiner.join(groups[0], report)
            fresh.append((None, blob.digest))
        metadata = await self._inspector.metadata(blob.digest)
        return Part(
            file_name=whole,
            blob=blob,
            metadata=self._inspector.known(metadata, whole, self._left_out),
            joined_from=tuple(known),
        )

    async def _folder(
        self,
        source: ModelSource,
        remote: SourceModel,
        fresh: _Fresh,
        on_progress: OnProgress,
    ) -> tuple[ModelName, Model]:
        """The model whose files have paths, and the name for it: what importing their folder would give."""
        blobs = await side_by_side([partial(self._blob, source, file, fresh, on_progress) for file in remote.files])
        stored = {file.path or file.file_name: blob for file, blob in zip(remote.files, blobs, strict=True)}
        on_progress(FetchProgress(status="verifying sha256 digest"))
        key = digest_of(os.urandom(32))
        folder = await self._local.folder(key, {path: blob.digest for path, blob in stored.items()})
        try:
            files = await asyncio.to_thread(scan_folder, folder, own_links=True)
            model = await asyncio.to_thread(folder_model, folder, files)
        finally:
            await self._local.drop_folder(key)
        kept = tuple(
            ModelFile(
                role=file.role,
                media_type="",
                digest=stored[file.path].digest,
                size_bytes=stored[file.path].size_bytes,
                path=file.path,
            )
            for file in files
        )
        name = name_from_file(f"{remote.name or 'model'}.onnx", model.quantization)
        return name, msgspec.structs.replace(model, files=kept)

    async def _part(
        self,
        source: ModelSource,
        file: RemoteFile,
        fresh: _Fresh,
        on_progress: OnProgress,
    ) -> Part:
        blob = await self._blob(source, file, fresh, on_progress)
        metadata = await self._inspector.metadata(blob.digest)
        return Part(
            file_name=file.file_name,
            blob=blob,
            metadata=self._inspector.known(metadata, file.file_name, self._left_out),
        )

    async def _blob(
        self,
        source: ModelSource,
        file: RemoteFile,
        fresh: _Fresh,
        on_progress: OnProgress,
    ) -> BlobInfo:
        blob = await self._blobs.stat(file.digest) if file.digest else None
        if blob is None:
            origin = BlobOrigin(
                place=id(fresh),  # its files are gone once this pull has ended
                stream=partial(_stream, source, file),
                status=f"storing {file.path or file.file_name}",
                in_parts=file.in_parts,
            )
            blob = await self._fetcher.fetch(origin, file.digest, file.size_bytes, on_progress)
            fresh.append((file, blob.digest))
        return blob


def _is_of_checkpoint(file: RemoteFile) -> bool:
    return file.path is not None and file.path.endswith(CHECKPOINT_SUFFIX)


def _stream(source: ModelSource, file: RemoteFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
    return source.fetch(file, start, end) if file.in_parts else source.fetch(file, start)
