"""Turns files, of this machine or from a source, into models of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec

from corral.core.errors import (
    Conflict,
    CorralError,
    DigestMismatch,
    InvalidModelFile,
    InvalidRequest,
    NotFound,
    StorageError,
    Unsupported,
)
from corral.core.folder_facts import FACT_FILES, folder_facts
from corral.core.left_out import remarks
from corral.core.manifest_reading import read_manifest
from corral.core.model_folders import FolderFile, scan_folder
from corral.core.models import Digest, FileRole, ModelFile, ModelMetadata, ModelRecord, digest_of, parameter_size_text
from corral.core.names import ModelName, name_from_file, split_quantization
from corral.core.ports.sources import ModelSource, OnProgress, Progress, RemoteFile
from corral.core.ports.storage import BlobInfo, BlobStore, LocalBlobs, ManifestFormat, ManifestStore, StoredManifest
from corral.core.references import delete_unreferenced
from corral.core.values import Value
from corral.core.weights import WeightsInspector

__all__ = ("ModelImporter",)


class _Part(Value, frozen=True, kw_only=True):
    """A file that is in the blob store, and what it says of itself."""

    file_name: str
    blob: BlobInfo
    metadata: ModelMetadata


class ModelImporter:
    """Blobs first, manifest last: a model is whole as soon as its name exists."""

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        formats: Sequence[ManifestFormat],
        inspector: WeightsInspector,
        sources: Sequence[ModelSource],
        left_out: Mapping[str, str] = {},
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._formats = tuple(formats)
        self._inspector = inspector
        self._sources = {source.scheme: source for source in sources}
        self._left_out = left_out

    async def import_file(self, path: Path, name: ModelName | None, on_progress: OnProgress) -> StoredManifest:
        """A file of weights, or the folder of a model of several files."""
        if await asyncio.to_thread(path.is_dir):
            return await self._import_folder(path, name, on_progress)
        if not await asyncio.to_thread(path.is_file):
            raise NotFound(f"no such file: {path}")
        metadata = self._known(await self._inspector.inspect(path), str(path))
        _weights_among([(str(path), metadata)])
        on_progress(Progress(status=f"importing {path.name}"))
        blob = await self._local.adopt(path)
        part = _Part(file_name=path.name, blob=blob, metadata=metadata)
        return await self._publish((part,), name, on_progress)

    async def _import_folder(self, path: Path, name: ModelName | None, on_progress: OnProgress) -> StoredManifest:
        files = await asyncio.to_thread(scan_folder, path)
        record = await asyncio.to_thread(_folder_record, path, files, name)
        adopted: list[ModelFile] = []
        try:
            for file in files:
                on_progress(Progress(status=f"importing {file.path}"))
                blob = await self._local.adopt(Path(file.file))
                adopted.append(
                    ModelFile(
                        role=file.role, media_type="", digest=blob.digest, size_bytes=blob.size_bytes, path=file.path
                    )
                )
            on_progress(Progress(status="writing manifest"))
            stored = await self.publish(msgspec.structs.replace(record, files=tuple(adopted)), None)
        except BaseException:
            with suppress(CorralError):  # garbage, then; the import's own fault is what matters
                await self._drop([file.digest for file in adopted])
            raise
        on_progress(Progress(status="success"))
        return stored

    async def publish(self, record: ModelRecord, metadata: ModelMetadata | None) -> StoredManifest:
        """Makes a model of blobs that are in the store already, under ``record.name``; one that is taken is replaced.

        The first dialect that has a place for everything writes it. `metadata` fills what the record leaves empty.
        Raises `Conflict` where a blob is gone, `Unsupported` where no dialect can write the record, and `StorageError`
        where the model could not be read again: its own files may say what cannot be.
        """
        manifest, small_blobs = self._written(record, metadata)
        async with self._manifests.guard(exclusive=False):
            for file in record.files:
                if await self._blobs.stat(file.digest) is None:
                    raise Conflict(
                        f"{file.path or file.digest} of '{record.name}' was deleted in the meantime", "try again"
                    )
            written = StoredManifest(name=record.name, data=manifest, digest=digest_of(manifest), modified_at=0.0)
            await read_manifest(written, self._formats, self._blobs, {digest_of(data): data for data in small_blobs})
            for data in small_blobs:
                await self._store_small(data)
            return await self._manifests.put(record.name, manifest)

    def _written(self, record: ModelRecord, metadata: ModelMetadata | None) -> tuple[bytes, list[bytes]]:
        complaints = []
        for form in self._formats:
            try:
                return form.write(record, metadata)
            except Unsupported as error:
                complaints.append(f"{form.name}: {error.message}")
        raise Unsupported(f"no manifest can hold '{record.name}': {'; '.join(complaints)}")

    async def pull(self, reference: str, name: ModelName | None, on_progress: OnProgress) -> StoredManifest:
        scheme, separator, _ = reference.partition("://")
        source = self._sources.get(scheme) if separator else None
        if source is None:
            known = ", ".join(f"{scheme}://" for scheme in sorted(self._sources))
            raise InvalidRequest(
                f"no source for {reference[:100]!r}",
                "; ".join(
                    (
                        f"references begin with one of: {known or '(none)'}",
                        "corral import takes a file of this machine",
                        *remarks(self._left_out, scheme),
                    )
                ),
            )
        fresh: list[tuple[RemoteFile, Digest]] = []
        async with source.resolve(reference, on_progress) as remote:
            try:
                parts = tuple([await self._fetch(source, file, fresh, on_progress) for file in remote.files])
                return await self._publish(parts, name, on_progress)
            except BaseException as error:
                # What has a digest shortens the next attempt, unless it is no model at all.
                keep = not isinstance(error, InvalidModelFile)
                with suppress(CorralError):  # garbage, then; the pull's own fault is what matters
                    await self._drop([digest for file, digest in fresh if not (keep and file.digest == digest)])
                raise

    async def _fetch(
        self,
        source: ModelSource,
        file: RemoteFile,
        fresh: list[tuple[RemoteFile, Digest]],
        on_progress: OnProgress,
    ) -> _Part:
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
        return _Part(file_name=file.file_name, blob=blob, metadata=metadata)

    async def _stream(self, source: ModelSource, file: RemoteFile, on_progress: OnProgress) -> BlobInfo:
        writer = await self._blobs.begin(file.digest, file.size_bytes)
        try:
            offset = next((end for start, end in writer.written if start == 0), 0)
            async with aclosing(source.fetch(file, offset)) as chunks:
                async for chunk in chunks:
                    await writer.write(offset, chunk)
                    offset += len(chunk)
                    on_progress(
                        Progress(
                            status=f"storing {file.file_name}",
                            digest=file.digest,
                            total_bytes=file.size_bytes,
                            completed_bytes=offset,
                        )
                    )
            on_progress(Progress(status="verifying sha256 digest"))
            return await writer.commit()
        finally:
            await writer.close()

    async def _publish(
        self, parts: tuple[_Part, ...], name: ModelName | None, on_progress: OnProgress
    ) -> StoredManifest:
        weights = parts[_weights_among([(part.file_name, part.metadata) for part in parts])]
        on_progress(Progress(status="writing manifest"))
        stored = await self.publish(_record(parts, weights, name), weights.metadata)
        on_progress(Progress(status="success"))
        return stored

    async def _drop(self, digests: Sequence[Digest]) -> None:
        if digests:
            async with self._manifests.guard(exclusive=True):
                await delete_unreferenced(digests, manifests=self._manifests, blobs=self._blobs)

    async def _store_small(self, data: bytes) -> None:
        # Without a digest no other writer of the same text can be in the way.
        writer = await self._blobs.begin(None, len(data))
        try:
            await writer.write(0, data)
            await writer.commit()
        finally:
            await writer.close()

    def _known(self, metadata: ModelMetadata | None, file_name: str) -> ModelMetadata:
        if metadata is None:
            known = ", ".join(self._inspector.formats)
            raise InvalidModelFile(
                f"{file_name}: not a model file of a known format ({known})",
                "; ".join(remarks(self._left_out, file_name.rpartition(".")[2])) or None,
            )
        return metadata


def _role(metadata: ModelMetadata) -> FileRole:
    if metadata.architecture == "clip":
        return "projector"
    return "adapter" if metadata.keys.get("general.type") == "adapter" else "weights"


def _weights_among(files: Sequence[tuple[str, ModelMetadata]]) -> int:
    """The place of the one file of weights. Raises `InvalidModelFile` where they make no model."""
    weights = [place for place, (_, metadata) in enumerate(files) if _role(metadata) == "weights"]
    if len(weights) != 1:
        found = ", ".join(f"{file_name} ({_role(metadata)})" for file_name, metadata in files)
        raise InvalidModelFile(
            f"a model needs one file of weights, and this has {len(weights)}: {found or 'nothing'}",
            "import the file you want with: corral import FILE",
        )
    file_name, metadata = files[weights[0]]
    parts = metadata.keys.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise InvalidModelFile(
            f"{file_name} is one of {parts} parts of a model", "join them first: llama-gguf-split --merge FIRST OUTPUT"
        )
    return weights[0]


def _record(parts: tuple[_Part, ...], weights: _Part, name: ModelName | None) -> ModelRecord:
    metadata = weights.metadata
    return ModelRecord(
        name=name or name_from_file(weights.file_name, metadata.file_type),
        digest=weights.blob.digest,  # the manifest's own digest exists once it is written
        size_bytes=0,
        modified_at=0.0,
        format=metadata.format,
        family=metadata.architecture,
        families=(metadata.architecture,),
        parameter_size=parameter_size_text(metadata.parameter_count),
        quantization=metadata.file_type,
        context_length=metadata.context_length,
        embedding_length=metadata.embedding_length,
        files=tuple(
            ModelFile(
                role=_role(part.metadata), media_type="", digest=part.blob.digest, size_bytes=part.blob.size_bytes
            )
            for part in parts
        ),
    )


def _folder_record(folder: Path, files: Sequence[FolderFile], name: ModelName | None) -> ModelRecord:
    """Blocking. Without files yet: they have no digests before they are in the store."""
    try:
        texts = {file.path: Path(file.file).read_bytes() for file in files if file.path in FACT_FILES}
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error}") from error
    facts = folder_facts(texts)
    model = next(file.path for file in files if file.path.endswith(".onnx"))
    _, in_file = split_quantization(Path(model).stem)
    _, in_folder = split_quantization(folder.resolve().name)
    quantization = in_file or in_folder
    return ModelRecord(
        name=name or name_from_file(f"{folder.resolve().name}.onnx", quantization),
        digest=digest_of(b""),  # the manifest's own digest exists once it is written
        size_bytes=0,
        modified_at=0.0,
        format="onnx",
        family=facts.family,
        quantization=quantization.upper(),
    )
