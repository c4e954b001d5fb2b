"""The records of models that are about to be stored: what their files say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.core.errors import InvalidModelFile, StorageError
from corral.core.models.digests import digest_of
from corral.core.models.folder_facts import FACT_FILES, folder_facts
from corral.core.models.folders import FolderFile
from corral.core.models.model import FileRole, ModelFile, ModelMetadata, StoredModel, parameter_size_text
from corral.core.models.names import ModelName, name_from_file, split_quantization
from corral.core.ports.blobs import BlobInfo
from corral.core.values import Value

__all__ = ("Part", "file_record", "folder_record", "weights_among")


class Part(Value, frozen=True, kw_only=True):
    """A file that is in the blob store, and what it says of itself."""

    file_name: str
    blob: BlobInfo
    metadata: ModelMetadata


def weights_among(files: Sequence[tuple[str, ModelMetadata]]) -> int:
    """The place of the one file of weights. Raises `InvalidModelFile` where they make no model."""
    weights = [place for place, (_, metadata) in enumerate(files) if _role(metadata) == "weights"]
    if len(weights) != 1:
        found = ", ".join(f"{file_name} ({_role(metadata)})" for file_name, metadata in files)
        raise InvalidModelFile(
            f"a model needs exactly one weights file, but this has {len(weights)}: {found or 'nothing'}",
            "import a single file with corral import FILE",
        )
    file_name, metadata = files[weights[0]]
    parts = metadata.keys.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise InvalidModelFile(
            f"{file_name} is one of {parts} parts of a model", "join them first: llama-gguf-split --merge FIRST OUTPUT"
        )
    return weights[0]


def file_record(parts: tuple[Part, ...], weights: Part, name: ModelName | None) -> StoredModel:
    """Of files that are in the store already; `weights` is one of `parts`."""
    metadata = weights.metadata
    return StoredModel(
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


def folder_record(folder: Path, files: Sequence[FolderFile], name: ModelName | None) -> StoredModel:
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
    return StoredModel(
        name=name or name_from_file(f"{folder.resolve().name}.onnx", quantization),
        digest=digest_of(b""),  # the manifest's own digest exists once it is written
        size_bytes=0,
        modified_at=0.0,
        format="onnx",
        family=facts.family,
        quantization=quantization.upper(),
    )


def _role(metadata: ModelMetadata) -> FileRole:
    if metadata.architecture == "clip":
        return "projector"
    return "adapter" if metadata.keys.get("general.type") == "adapter" else "weights"
