"""What a converter plugin registers: how a model becomes one that another engine takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, Model, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.specs.engines import LocalFile, Match
from corral.core.values import Value

__all__ = (
    "DERIVED_HOST",
    "ConvertRequest",
    "ConvertResult",
    "ConvertedFile",
    "ConverterSpec",
    "derived_name",
    "refuse_derived",
)

DERIVED_HOST = "corral.derived"
"""The host part of derived models' names: lists leave them out."""


class ConvertRequest(Value, frozen=True, kw_only=True):
    """What a converter gets. `folder` is an empty folder to write into; `parameters` are its spec's Struct, as data."""

    model: str
    files: tuple[LocalFile, ...]
    folder: str
    parameters: Mapping[str, Any] = {}


class ConvertedFile(Value, frozen=True, kw_only=True):
    """A file that the converter wrote, by its path inside the folder; ``/`` between parts."""

    path: str
    role: FileRole = "weights"


class ConvertResult(Value, frozen=True, kw_only=True):
    """What came out. One file alone is an ordinary model; several are a folder model, kept with their paths.

    `format` (``gguf``, ``onnx``), `quantization` and the lengths are what the new manifest says of the model.
    """

    files: tuple[ConvertedFile, ...]
    format: str
    quantization: str = ""
    context_length: int | None = None
    embedding_length: int | None = None


class ConverterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A converter, described by pure data and pure functions like an `EngineSpec`.

    `name` is what ``corral convert --to`` takes. `convert` is the import path of a blocking function
    ``(ConvertRequest, on_progress) -> ConvertResult``, called in a process of its own, which raises errors of ours.
    `match` answers 0 for what it cannot convert, with the reason. `parameters` is a Struct whose fields all have
    defaults. Results are kept by source, name, `version` and parameters: another `version` means that the same
    parameters no longer give the same files. `estimate(record, metadata, parameters)` answers the bytes that it takes
    at most while it works, of ``disk`` and by device; None: as much disk as the weights. `requirement`, `module`,
    `needs` and `install_hint` as in `EngineSpec`.
    """

    name: str
    summary: str
    convert: str
    match: Callable[[Model, ModelMetadata | None], Match]
    version: int = 1
    parameters: type[msgspec.Struct] | None = None
    estimate: Callable[[StoredModel, ModelMetadata | None, Any], Mapping[str, int]] | None = None
    requirement: str | None = None
    module: str | None = None
    needs: tuple[str, ...] = ()
    install_hint: str | None = None


def derived_name(source: Digest, spec: ConverterSpec, parameters: Mapping[str, Any]) -> ModelName:
    """``corral.derived/<source's weights digest>/<converter>:<hash>``: the same request is the same name.

    The name keeps to Ollama's grammar: with one that does not, an Ollama that shares the store stops pruning.
    """
    stated = msgspec.json.encode([spec.version, dict(parameters)], order="deterministic")
    return ModelName(
        host=DERIVED_HOST,
        namespace=source.removeprefix("sha256:"),
        model=spec.name,
        tag=hashlib.sha256(stated).hexdigest()[:12],
    )


def refuse_derived(name: ModelName) -> None:
    """Raises `InvalidRequest` for a name of a derived model: what stands under one is loaded in its source's place."""
    if name.host.lower() == DERIVED_HOST:
        raise InvalidRequest(f"{name.short} is a name that Corral reserves for itself", "choose another name")
