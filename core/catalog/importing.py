"""Imports weights files and model folders of this machine into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from corral.core.catalog.create_calls import CreateCall, GivenFiles
from corral.core.catalog.given_files import GivenFileReader
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.joining import PartJoiner, parts_in, siblings_of
from corral.core.catalog.new_models import Part, file_model, folder_model, folder_name, weights_among
from corral.core.catalog.new_weights import WeightsMaker
from corral.core.catalog.part_groups import PartFile
from corral.core.catalog.publishing import BlobGone, ManifestPublisher, Published
from corral.core.catalog.unused_blobs import discard_blobs
from corral.core.errors import InvalidRequest, NotFound
from corral.core.models.checkpoint_folders import checkpoint_in
from corral.core.models.digests import Digest
from corral.core.models.folders import scan_folder
from corral.core.models.model import ModelFile, StoredModel
from corral.core.models.names import ModelName, name_from_file
from corral.core.models.split_names import whole_name
from corral.core.models.unread_weights import refuse_file
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("ModelImporter",)


class ModelImporter:
    """The original files are left untouched. `left_out` is for errors about a format that no reader knows. `weights`
    converts checkpoints."""

    def __init__(
        self,
        *,
        publisher: ManifestPublisher,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        inspector: WeightsInspector,
        weights: WeightsMaker,
        left_out: Mapping[str, str],
    ) -> None:
        self._publisher = publisher
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._inspector = inspector
        self._joiner = PartJoiner(blobs=blobs, inspector=inspector)
        self.weights = weights
        self._left_out = left_out

    async def name_of(self, path: Path, quantize: str = "") -> ModelName:
        """The name that `import_file` gives to a file or folder if none is given."""
        parts = await self._parts(path)
        if parts:
            first = await self._inspector.inspect(Path(parts[0].place))
            return name_from_file(whole_name(parts[0].name), "" if first is None else first.file_type)
        if await asyncio.to_thread(path.is_dir):
            if await asyncio.to_thread(checkpoint_in, path):
                return _checkpoint_name(path, quantize)
            files = await asyncio.to_thread(scan_folder, path)
            return folder_name(path, await asyncio.to_thread(folder_model, path, files))
        refuse_file(path)
        metadata = await self._inspector.inspect(path)
        return name_from_file(path.name, self._inspector.known(metadata, str(path), self._left_out).file_type)

    async def is_split(self, path: Path, weights: BlobInfo) -> bool:
        """Whether `path` is a part, or the folder, of split weights that become these. Raises as `import_file`."""
        parts = await self._parts(path)
        return bool(parts) and await self._joiner.are_parts_of(parts, weights)

    async def import_file(
        self, path: Path, name: ModelName | None, on_progress: OnProgress, quantize: str = ""
    ) -> StoredModel:
        """Imports a weights file, the folder of a model with several files, or that of a checkpoint, which is
        converted, and quantized to the type `quantize` if one is given. The parts of split weights are joined: `path`
        is one of them, or a folder that has nothing else."""
        is_folder = await asyncio.to_thread(path.is_dir)
        if is_folder and (checkpoint := await asyncio.to_thread(checkpoint_in, path)):
            return await self._import_checkpoint(path, checkpoint, name, quantize, on_progress)
        if quantize:
            raise InvalidRequest(
                f"{path} is not a checkpoint in safetensors, and only these are quantized while they are imported",
                f"import it, and then: corral quantize NAME {quantize}",
            )
        parts = await self._parts(path)
        if parts:
            return await self._import_parts(parts, name, on_progress)
        if is_folder:
            return await self._import_folder(path, name, on_progress)
        if not await asyncio.to_thread(path.is_file):
            raise NotFound(f"no such file: {path}")
        refuse_file(path)
        metadata = self._inspector.known(await self._inspector.inspect(path), str(path), self._left_out)
        weights_among([(str(path), metadata)])
        on_progress(FetchProgress(status=f"importing {path.name}"))
        adopted: list[Digest] = []

        async def store() -> Published:
            blob = await self._local.adopt(path, on_stored=adopted.append)
            part = Part(file_name=path.name, blob=blob, metadata=metadata)
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put_model(
                name or name_from_file(path.name, metadata.file_type), file_model((part,), part)
            )

        return await self._adopt_and_publish(store, adopted, on_progress)

    async def _parts(self, path: Path) -> tuple[PartFile, ...]:
        """All parts of the split weights that `path` belongs to; none if it is something else."""
        is_folder = await asyncio.to_thread(path.is_dir)
        if not is_folder and not await asyncio.to_thread(path.is_file):
            return ()
        found = await asyncio.to_thread(parts_in if is_folder else siblings_of, path)
        groups = await self._joiner.groups([PartFile(name=file.name, place=file) for file in found])
        return groups[0] if groups else ()

    async def _import_parts(
        self, parts: tuple[PartFile, ...], name: ModelName | None, on_progress: OnProgress
    ) -> StoredModel:
        whole = whole_name(parts[0].name)
        adopted: list[Digest] = []

        def report(done: int, total: int) -> None:
            on_progress(FetchProgress(status=f"joining {whole}", total_bytes=total, completed_bytes=done))

        async def store() -> Published:
            blob = await self._joiner.join(parts, report)
            adopted.append(blob.digest)
            metadata = self._inspector.known(await self._inspector.metadata(blob.digest), whole, self._left_out)
            part = Part(file_name=whole, blob=blob, metadata=metadata)
            weights_among([(whole, metadata)])
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put_model(
                name or name_from_file(whole, metadata.file_type), file_model((part,), part)
            )

        return await self._adopt_and_publish(store, adopted, on_progress)

    async def _import_checkpoint(
        self, path: Path, files: GivenFiles, name: ModelName | None, quantize: str, on_progress: OnProgress
    ) -> StoredModel:
        call = CreateCall(name=name or _checkpoint_name(path, quantize), files=files, quantize=quantize)
        reader = GivenFileReader(blobs=self._blobs, local=self._local, inspector=self._inspector)

        async def store() -> Published:
            model, _ = await self.weights.converted(call, files, reader, on_progress)
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put_model(call.name, model)

        return await self._adopt_and_publish(store, reader.made, on_progress)

    async def _import_folder(self, path: Path, name: ModelName | None, on_progress: OnProgress) -> StoredModel:
        files = await asyncio.to_thread(scan_folder, path)
        model = await asyncio.to_thread(folder_model, path, files)
        name = name or folder_name(path, model)
        adopted: list[Digest] = []

        async def store() -> Published:
            kept = []
            for file in files:
                on_progress(FetchProgress(status=f"importing {file.path}"))
                blob = await self._local.adopt(Path(file.file), on_stored=adopted.append)
                kept.append(
                    ModelFile(
                        role=file.role, media_type="", digest=blob.digest, size_bytes=blob.size_bytes, path=file.path
                    )
                )
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put_model(name, msgspec.structs.replace(model, files=tuple(kept)))

        return await self._adopt_and_publish(store, adopted, on_progress)

    async def _adopt_and_publish(
        self, store: Callable[[], Awaitable[Published]], adopted: list[Digest], on_progress: OnProgress
    ) -> StoredModel:
        """If `store` fails, what it added to the store is removed again.

        It is called a second time if a blob was deleted between its adoption and the manifest: one of an older model
        that was just replaced. The second time the guard is held, so that nothing can be deleted meanwhile.
        """
        try:
            try:
                published = await store()
            except BlobGone:
                async with self._manifests.guard(exclusive=False):
                    published = await store()
        except BaseException:
            await discard_blobs(adopted, manifests=self._manifests, blobs=self._blobs)
            raise
        await self._publisher.delete_replaced(published)
        on_progress(FetchProgress(status="success"))
        return published.record


def _checkpoint_name(path: Path, quantize: str) -> ModelName:
    """The name for a folder's checkpoint if none is given."""
    return name_from_file(f"{path.resolve().name}.gguf", quantize)
