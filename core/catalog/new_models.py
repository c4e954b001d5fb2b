"""Describes models that are about to be stored, from what their files say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.core.errors import InvalidModelFile, StorageError
from corral.core.models.digests import Digest
from corral.core.models.folder_facts import FACT_FILES, FolderFacts, folder_facts
from corral.core.models.folders import FolderFile
from corral.core.models.model import FileRole, Model, ModelFile, ModelMetadata, parameter_size_text
from corral.core.models.names import ModelName, name_from_file, split_quantization
from corral.core.models.onnx_outputs import onnx_outputs
from corral.core.ports.blobs import BlobInfo
from corral.core.values import Value

__all__ = (
    "Part",
    "file_model",
    "file_role",
    "folder_model",
    "folder_name",
    "weights_among",
)


class Part(Value, frozen=True, kw_only=True):
    """A file that is in the blob store, and what its header says. `joined_from` are the parts that it was made of."""

    file_name: str
    blob: BlobInfo
    metadata: ModelMetadata
    joined_from: tuple[Digest, ...] = ()


def weights_among(files: Sequence[tuple[str, ModelMetadata]]) -> int:
    """The index of the one weights file. Raises `InvalidModelFile` if the files are not one model."""
    weights = [place for place, (_, metadata) in enumerate(files) if file_role(metadata) == "weights"]
    if len(weights) != 1:
        found = ", ".join(f"{file_name} ({file_role(metadata)})" for file_name, metadata in files)
        raise InvalidModelFile(
            f"a model needs exactly one weights file, but this has {len(weights)}: {found or 'nothing'}",
            "import a single file with corral import FILE",
        )
    return weights[0]


def file_model(parts: Sequence[Part], weights: Part) -> Model:
    """The model that consists of these stored files; `weights` is one of `parts`."""
    metadata = weights.metadata
    return Model(
        format=metadata.format,
        family=metadata.architecture,
        families=(metadata.architecture,),
        parameter_size=parameter_size_text(metadata.parameter_count),
        quantization=metadata.file_type,
        context_length=metadata.context_length,
        embedding_length=metadata.embedding_length,
        joined_from=weights.joined_from,
        files=tuple(
            ModelFile(
                role=file_role(part.metadata), media_type="", digest=part.blob.digest, size_bytes=part.blob.size_bytes
            )
            for part in parts
        ),
    )


def folder_model(folder: Path, files: Sequence[FolderFile]) -> Model:
    """The model in a folder, without its files, which have no digests before they are stored. Blocking."""
    try:
        texts = {file.path: Path(file.file).read_bytes() for file in files if file.path in FACT_FILES}
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error}") from error
    model = next(file.path for file in files if file.path.endswith(".onnx"))
    _, in_file = split_quantization(Path(model).stem)
    _, in_folder = split_quantization(folder.resolve().name)
    facts = folder_facts(texts)
    return Model(
        format="onnx",
        family=facts.family,
        quantization=(in_file or in_folder).upper(),
        capabilities=("rerank",) if _scores(folder, model, files, facts) else (),
    )


def _scores(folder: Path, model: str, files: Sequence[FolderFile], facts: FolderFacts) -> bool:
    """Whether only the graph says that a model is a reranker: it returns one logit, and nothing speaks of pooling."""
    pools = any(file.path == "modules.json" or file.path.endswith("Pooling/config.json") for file in files)
    if pools or not {"rerank", "completion"}.isdisjoint(facts.capabilities):
        return False
    try:
        outputs = onnx_outputs(folder / model)
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error}") from error
    return "sentence_embedding" not in outputs and outputs.get("logits", ())[1:] == (1,)


def folder_name(folder: Path, model: Model) -> ModelName:
    """The name for a folder's model if none is given."""
    return name_from_file(f"{folder.resolve().name}.onnx", model.quantization)


def file_role(metadata: ModelMetadata) -> FileRole:
    """What the file is for, as its header says."""
    kind = metadata.keys.get("general.type")
    sees = metadata.keys.get(f"{metadata.architecture}.vision.block_count")
    if kind in ("projector", "mmproj") or metadata.architecture == "clip" or (sees and not metadata.block_count):
        return "projector"
    return "adapter" if kind == "adapter" else "weights"
