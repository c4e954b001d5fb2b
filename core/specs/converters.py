"""What a converter plugin registers: how a model is converted for another engine."""

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
    "tuned_name",
)

DERIVED_HOST = "corral.derived"
"""The host in the names of derived models, which are not listed."""


class ConvertRequest(Value, frozen=True, kw_only=True):
    """What a converter gets. `folder` is an empty folder to write into; `parameters` are its spec's Struct, as data."""

    model: str
    files: tuple[LocalFile, ...]
    folder: str
    parameters: Mapping[str, Any] = {}


class ConvertedFile(Value, frozen=True, kw_only=True):
    """A file that the converter wrote: its path inside the folder, with ``/`` between parts."""

    path: str
    role: FileRole = "weights"


class ConvertResult(Value, frozen=True, kw_only=True):
    """The result. A single file is an ordinary model; several are a folder model, kept with their paths.

    `format` (``gguf``, ``onnx``), `quantization` and the lengths go into the new manifest.
    """

    files: tuple[ConvertedFile, ...]
    format: str
    quantization: str = ""
    context_length: int | None = None
    embedding_length: int | None = None


class ConverterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A converter, described by pure data and pure functions like an `EngineSpec`.

    `name` is what ``corral convert --to`` takes. `convert` is the import path of a blocking function
    ``(ConvertRequest, on_progress) -> ConvertResult``, called in a separate process. It raises errors of
    `corral.core.errors`. `match` returns score 0 for what it cannot convert, with the reason. `parameters` is a Struct
    whose fields all have defaults. Results are kept by source, name, `version` and parameters: increase `version` when
    the same parameters no longer produce the same files. `estimate(record, metadata, parameters)` returns the most
    bytes that the conversion takes, of ``disk`` and by device; without it, as much disk as the weights is assumed.
    `architectures` are those of the checkpoints in safetensors that it turns into GGUF, as ``config.json`` names them;
    the models that `match` and `estimate` get of these have the format ``safetensors`` and the architecture as their
    family, and no metadata. `convert_adapter` is the import path of a function like `convert` that turns LoRA adapters
    in safetensors into GGUF: it gets their files in the roles ``adapter`` and ``config``, and the weights that they are
    for. `requirement`, `module`, `needs` and `install_hint` are as in `EngineSpec`.
    """

    name: str
    summary: str
    convert: str
    match: Callable[[Model, ModelMetadata | None], Match]
    version: int = 1
    architectures: tuple[str, ...] = ()
    convert_adapter: str | None = None
    parameters: type[msgspec.Struct] | None = None
    estimate: Callable[[StoredModel, ModelMetadata | None, Any], Mapping[str, int]] | None = None
    requirement: str | None = None
    module: str | None = None
    needs: tuple[str, ...] = ()
    install_hint: str | None = None


def derived_name(source: Digest, spec: ConverterSpec, parameters: Mapping[str, Any]) -> ModelName:
    """``corral.derived/<source's weights digest>/<converter>:<hash>``, which is equal for equal requests.

    The name follows Ollama's grammar: an invalid one would make an Ollama that shares the store stop pruning.
    """
    stated = msgspec.json.encode([spec.version, dict(parameters)], order="deterministic")
    return ModelName(
        host=DERIVED_HOST,
        namespace=source.removeprefix("sha256:"),
        model=spec.name,
        tag=hashlib.sha256(stated).hexdigest()[:12],
    )


def tuned_name(source: Digest, engine: str) -> ModelName:
    """``corral.derived/<source's weights digest>/<engine>:tuned``: what this engine loads in place of these weights."""
    return ModelName(host=DERIVED_HOST, namespace=source.removeprefix("sha256:"), model=engine, tag="tuned")


def refuse_derived(name: ModelName) -> None:
    """Raises `InvalidRequest` for the name of a derived model, which would be loaded in place of its source."""
    if name.host.lower() == DERIVED_HOST:
        raise InvalidRequest(f"{name.short} is a name that Corral reserves for itself", "choose another name")
