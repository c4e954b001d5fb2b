"""Finds out what the files are that a new model is created from, by their headers, before anything else opens them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.core.catalog.create_calls import GivenFiles
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.new_models import HOW_TO_JOIN, Part, file_role, split_count
from corral.core.errors import BlobNotFound, InvalidModelFile, InvalidRequest, Unsupported
from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, ModelFile
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("GivenFileReader", "check_paths", "model_files", "refuse_unconverted")


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
        if name.endswith(".pth"):
            raise Unsupported(
                f"{name} is one of PyTorch's own files, which are not read: they may contain any program",
                "save the model as safetensors",
            )


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
    """`adopted` collects what was added to the store, for whoever removes it if the model is not created after all."""

    def __init__(self, *, blobs: BlobStore, local: LocalBlobs, inspector: WeightsInspector) -> None:
        self._blobs = blobs
        self._local = local
        self._inspector = inspector
        self.adopted: list[Digest] = []

    async def parts(self, files: GivenFiles, on_progress: OnProgress) -> tuple[Part, ...]:
        """The files in the order of their names. Raises `InvalidRequest` for a file that is no GGUF, `Unsupported` for
        what has to be converted first, `InvalidModelFile` for one that is broken, and `BlobNotFound`.
        """
        refuse_unconverted(files)
        stored = [(name, await self._stored(name, files[name], on_progress)) for name in sorted(files)]
        parts = []
        for name, blob in stored:
            on_progress(FetchProgress(status="parsing GGUF"))
            parts.append(await self._part(name, blob))
        if not parts:
            raise InvalidRequest("unknown type")
        return tuple(parts)

    async def require(self, name: str, digest: Digest) -> BlobInfo:
        """The blob that was uploaded as the file `name`. Raises `BlobNotFound`."""
        found = await self._blobs.stat(digest)
        if found is None:
            raise BlobNotFound(f'blob "{digest}" not found', f"upload {name} first: POST /api/blobs/{digest}")
        return found

    async def _stored(self, name: str, file: Digest | Path, on_progress: OnProgress) -> BlobInfo:
        if isinstance(file, Path):
            on_progress(FetchProgress(status=f"copying file {name}"))
            blob = await self._local.adopt(file)
            self.adopted.append(blob.digest)
            return blob
        return await self.require(name, file)

    async def _part(self, name: str, blob: BlobInfo) -> Part:
        try:
            metadata = await self._inspector.metadata(blob.digest)
        except InvalidModelFile as error:
            raise InvalidModelFile(error.message.replace(blob.digest, name), error.remedy) from error
        if metadata is None:
            raise InvalidRequest("supplied file was not in GGUF format" if name.endswith(".gguf") else "unknown type")
        if (count := split_count(metadata)) > 1:
            raise Unsupported(
                f"split GGUF {name!r} is one of {count} parts, which this version cannot create a model from",
                HOW_TO_JOIN,
            )
        return Part(file_name=name, blob=blob, metadata=metadata)
