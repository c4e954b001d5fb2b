"""Finds out what the files are that a new model is created from, by their headers, before anything else opens them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from corral.core.catalog.create_calls import GivenFiles
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.joining import PartJoiner
from corral.core.catalog.new_models import Part, file_role
from corral.core.catalog.part_groups import PartFile
from corral.core.errors import BlobNotFound, InvalidModelFile, InvalidRequest, Unsupported
from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, ModelFile
from corral.core.models.split_names import whole_name
from corral.core.models.unread_weights import refuse_pickles
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("NO_DIGEST", "GivenFileReader", "check_paths", "model_files", "refuse_unconverted")

NO_DIGEST = Digest("0" * 19)
"""What Ollama's events about a blob that does not exist yet have."""


def check_paths(files: GivenFiles | None) -> None:
    """Raises `InvalidRequest` for a name that is no relative path without ``.`` and ``..``."""
    for name in files or ():
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise InvalidRequest("file path must be relative", None if name else "a file has no name")


def refuse_unconverted(files: GivenFiles | None) -> None:
    """Raises `Unsupported` for files that would have to be converted, before anything is done with them."""
    for name in files or ():
        if name.endswith(".safetensors"):
            raise Unsupported(
                f"{name}: this part of a model cannot be created from safetensors",
                "convert it to GGUF first, with the scripts of llama.cpp, and create it from that file",
            )
    refuse_pickles(files or ())


def model_files(parts: Sequence[Part], role: FileRole | None = None) -> tuple[ModelFile, ...]:
    """The files of a model, in this `role`, or in what their headers say."""
    return tuple(
        ModelFile(
            role=role or file_role(part.metadata),
            media_type="",
            digest=part.blob.digest,
            size_bytes=part.blob.size_bytes,
        )
        for part in parts
    )


class GivenFileReader:
    """`adopted` collects which files were added to the store, and `made` which blobs came out of them, for whoever
    removes what no model needs in the end."""

    def __init__(self, *, blobs: BlobStore, local: LocalBlobs, inspector: WeightsInspector) -> None:
        self._blobs = blobs
        self._local = local
        self._inspector = inspector
        self._joiner = PartJoiner(blobs=blobs, inspector=inspector)
        self.adopted: list[Digest] = []
        self.made: list[Digest] = []

    async def parts(self, files: GivenFiles, on_progress: OnProgress) -> tuple[Part, ...]:
        """The files in the order of their names; the parts of a split one are joined, and come last. Raises
        `InvalidRequest` for a file that is no GGUF, `Unsupported` for what has to be converted first,
        `InvalidModelFile` for one that is broken or a part that is missing, and `BlobNotFound`.
        """
        refuse_unconverted(files)
        for name, file in files.items():
            if not isinstance(file, Path):
                await self.require(name, file)
        split = await self._joiner.groups([PartFile(name=name, place=files[name]) for name in sorted(files)])
        parts_of_others = {file.name for group in split for file in group}
        whole = [name for name in sorted(files) if name not in parts_of_others]
        stored = [(name, await self._stored(name, files[name], on_progress)) for name in whole]
        parts = []
        for name, blob in stored:
            on_progress(FetchProgress(status="parsing GGUF"))
            parts.append(await self._part(name, blob))
        for group in split:
            for _ in group:
                on_progress(FetchProgress(status="parsing GGUF"))
            parts.append(await self._joined(group, on_progress))
        if not parts:
            raise InvalidRequest("unknown type")
        return tuple(parts)

    async def _joined(self, group: Sequence[PartFile], on_progress: OnProgress) -> Part:
        def report(done: int, total: int) -> None:
            on_progress(
                FetchProgress(status="validating GGUF model", digest=NO_DIGEST, total_bytes=total, completed_bytes=done)
            )

        blob = await self._joiner.join(group, report)
        self.made.append(blob.digest)
        part = await self._part(whole_name(group[0].name), blob)
        digests = tuple(file.place for file in group if not isinstance(file.place, Path))
        return msgspec.structs.replace(part, joined_from=digests)

    async def require(self, name: str, digest: Digest) -> BlobInfo:
        """The blob that was uploaded as the file `name`. Raises `BlobNotFound`."""
        found = await self._blobs.stat(digest)
        if found is None:
            raise BlobNotFound(f'blob "{digest}" not found', f"upload {name} first: POST /api/blobs/{digest}")
        return found

    async def _stored(self, name: str, file: Digest | Path, on_progress: OnProgress) -> BlobInfo:
        if isinstance(file, Path):
            on_progress(FetchProgress(status=f"copying file {name}"))
            return await self._local.adopt(file, on_stored=self.adopted.append)
        return await self.require(name, file)

    async def _part(self, name: str, blob: BlobInfo) -> Part:
        try:
            metadata = await self._inspector.metadata(blob.digest)
        except InvalidModelFile as error:
            raise InvalidModelFile(error.message.replace(blob.digest, name), error.remedy) from error
        if metadata is None:
            raise InvalidRequest("supplied file was not in GGUF format" if name.endswith(".gguf") else "unknown type")
        return Part(file_name=name, blob=blob, metadata=metadata)
