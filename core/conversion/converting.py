"""Runs a converter on the files of a model, and puts what it wrote into the store."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from corral.core.catalog.unused_blobs import discard_blobs
from corral.core.containment import contained
from corral.core.conversion.results import check_files
from corral.core.error_translation import map_errors
from corral.core.errors import JobFailed, OutOfMemory, OutOfSpace, PluginError
from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, ModelFile, ModelMetadata, StoredModel
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.jobs import JobRunner
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.converters import ConverterSpec, ConvertRequest, ConvertResult
from corral.core.specs.engines import LocalFile
from corral.core.values import Value

__all__ = ("Converted", "Converting", "Trial")


class Converted(Value, frozen=True, kw_only=True):
    """What a converter said and wrote; the files are in the store, and no manifest names them yet."""

    result: ConvertResult
    files: tuple[ModelFile, ...]

    @property
    def digests(self) -> tuple[Digest, ...]:
        return tuple(file.digest for file in self.files)


class Trial(Value, frozen=True, kw_only=True):
    """What a converter made of `record`: files in `folder`, in no store."""

    record: StoredModel
    metadata: ModelMetadata | None
    folder: Path
    result: ConvertResult

    @property
    def weights(self) -> Path:
        """The first of its files."""
        return self.folder / self.result.files[0].path


class Converting:
    """Conversions in separate processes. Each leaves either all of its files in the store, or none."""

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        jobs: JobRunner,
        free_memory: Callable[[], Mapping[str, int]],
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._jobs = jobs
        self._free_memory = free_memory

    async def run(
        self,
        spec: ConverterSpec,
        record: StoredModel,
        metadata: ModelMetadata | None,
        files: Sequence[LocalFile],
        parameters: Mapping[str, Any],
        on_progress: OnLoadProgress,
    ) -> Converted:
        """What the converter makes of `files` of the model. Cancelling it ends the process.

        Raises `OutOfSpace`, `OutOfMemory`, `PluginError` for an invalid result, `JobFailed`, and whatever else the
        conversion raises.
        """
        async with self.discarding() as made, self._local.scratch() as folder:
            result = await self.into(folder, spec, record, metadata, files, parameters, on_progress)
            converted = await self.stored(folder, result)
            made += converted.digests
        return converted

    async def stored(self, folder: Path, result: ConvertResult) -> Converted:
        """Puts what a converter wrote into a scratch folder into the store."""
        files: list[ModelFile] = []
        async with self.discarding() as made:
            for file in result.files:
                blob = await self._local.adopt(folder / file.path, on_stored=made.append)
                path = file.path if len(result.files) > 1 else None
                files.append(
                    ModelFile(role=file.role, media_type="", digest=blob.digest, size_bytes=blob.size_bytes, path=path)
                )
        return Converted(result=result, files=tuple(files))

    async def into(
        self,
        folder: Path,
        spec: ConverterSpec,
        record: StoredModel,
        metadata: ModelMetadata | None,
        files: Sequence[LocalFile],
        parameters: Mapping[str, Any],
        on_progress: OnLoadProgress,
        *,
        role: FileRole = "weights",
    ) -> ConvertResult:
        """As `run`, but what the converter makes is left in `folder`, which is empty before. One of its files must have
        this role."""
        await asyncio.to_thread(self._require_room, folder, spec, record, metadata, parameters)
        on_progress(0.0)
        request = ConvertRequest(model=record.name.short, files=tuple(files), folder=str(folder), parameters=parameters)
        result = await self._answer(spec, request, on_progress)
        await asyncio.to_thread(check_files, result, folder, spec, role)
        return result

    @asynccontextmanager
    async def discarding(self) -> AsyncIterator[list[Digest]]:
        """Collects what the block adds to the store. If the block fails or is cancelled, also while it is left, what no
        manifest names of that is deleted."""
        made: list[Digest] = []
        try:
            yield made
        except BaseException:
            await discard_blobs(made, manifests=self._manifests, blobs=self._blobs)
            raise

    async def _answer(self, spec: ConverterSpec, request: ConvertRequest, on_progress: OnLoadProgress) -> ConvertResult:
        try:
            return await self._jobs.run(spec.convert, request, ConvertResult, on_progress)
        except JobFailed as error:
            raise JobFailed(
                f"converting {request.model} with the {spec.name} converter failed: {error.message}", error.remedy
            ) from error

    def _require_room(
        self,
        folder: Path,
        spec: ConverterSpec,
        record: StoredModel,
        metadata: ModelMetadata | None,
        parameters: Mapping[str, Any],
    ) -> None:
        assert record.weights is not None
        needed: Mapping[str, int] = {"disk": record.weights.size_bytes}
        if spec.estimate is not None:
            typed = msgspec.convert(parameters, spec.parameters) if spec.parameters is not None else None
            with map_errors({Exception: PluginError}, f"the estimate of the {spec.name} converter failed"):
                needed = contained(spec.estimate, record, metadata, typed)
        free = {**self._free_memory(), "disk": shutil.disk_usage(folder).free}
        for place, size_bytes in needed.items():
            if place in free and size_bytes > free[place]:
                kind = OutOfSpace if place == "disk" else OutOfMemory
                raise kind(
                    f"converting {record.name.short} needs about {size_bytes >> 20} MiB of {place} space, "
                    f"{free[place] >> 20} MiB is free"
                )
