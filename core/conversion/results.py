"""Checks what goes into a conversion and what comes out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from corral.core.choices import in_listed_case
from corral.core.containment import contained
from corral.core.error_translation import map_errors
from corral.core.errors import EngineNotInstalled, InvalidOption, PluginError, StorageError, Unsupported
from corral.core.malformed import mistyped
from corral.core.models.manifest_or_weights import completed
from corral.core.models.model import FileRole, Model, ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import DEFAULT_TAG, ModelName, split_quantization
from corral.core.models.paths import check_together
from corral.core.specs.converters import ConverterSpec, ConvertResult
from corral.core.specs.engines import Match
from corral.core.specs.installation import Installation
from corral.core.wording.pip_lines import install_line
from corral.core.wording.type_names import type_name

__all__ = ("check_files", "converted_name", "derived_model", "quantized_name", "require_able", "typed_parameters")

_TAG_LIMIT = 80


def typed_parameters(spec: ConverterSpec, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters with their values, as plain data; later layers override earlier ones. Raises `InvalidOption`."""
    given = {name: value for layer in layers for name, value in layer.items()}
    known = () if spec.parameters is None else [field.encode_name for field in msgspec.structs.fields(spec.parameters)]
    for name in given:
        if name not in known:
            raise InvalidOption(
                f"the {spec.name} converter has no parameter {name!r}",
                f"it has: {', '.join(known) or 'none'}",
                quoted=repr(name),
            )
    if spec.parameters is None:
        return {}
    try:
        typed = msgspec.convert(in_listed_case(given, spec.parameters), spec.parameters, strict=False)
    except msgspec.ValidationError as error:
        kinds = (f"{field.encode_name}: {type_name(field.type)}" for field in msgspec.structs.fields(spec.parameters))
        message = f"parameters of the {spec.name} converter: {error}"
        raise InvalidOption(message, "; ".join(kinds), quoted=mistyped(error).quoted) from error
    plain = msgspec.to_builtins(typed)
    assert isinstance(plain, dict)
    return plain


def require_able(
    spec: ConverterSpec, record: StoredModel, metadata: ModelMetadata | None, installation: Installation
) -> None:
    """Raises `Unsupported` if the converter cannot convert the model, `EngineNotInstalled` if it cannot run here, and
    `PluginError` if its `match` fails."""
    with map_errors({Exception: PluginError}, f"the match of the {spec.name} converter failed"):
        match = contained(spec.match, record, metadata)
        if not isinstance(match, Match):
            raise TypeError(f"it returned {type(match).__name__} instead of a Match")
    if match.score <= 0:
        raise Unsupported(f"the {spec.name} converter cannot convert {record.name.short}: {match.reason}")
    missing = installation.missing(spec)
    if missing:
        raise EngineNotInstalled(f"the {spec.name} converter cannot run here: {missing}", install_line(spec))


def check_files(result: ConvertResult, folder: Path, spec: ConverterSpec, role: FileRole = "weights") -> None:
    """Raises `PluginError` unless each file of a result is a plain file inside the folder, and one has this role."""
    fault = None
    if not any(file.role == role for file in result.files):
        fault = f"it wrote no {role}"
    try:
        check_together(file.path for file in result.files)
    except StorageError as error:
        fault = error.message
    if fault is None:
        inside = os.path.realpath(folder)
        for file in result.files:
            path = folder / file.path
            whole = path.is_file() and not path.is_symlink()
            if not whole or os.path.commonpath([inside, os.path.realpath(path)]) != inside:
                fault = f"{file.path!r} is not a file in the folder"
                break
    if fault is not None:
        raise PluginError(f"the {spec.name} converter returned a wrong result: {fault}", "report it to its author")


def derived_model(
    record: StoredModel,
    metadata: ModelMetadata | None,
    result: ConvertResult,
    files: tuple[ModelFile, ...],
) -> Model:
    """What the manifest of a converted model says: what the converter's result says, else what the source says."""
    source = completed(record, metadata)
    return Model(
        format=result.format,
        family=source.family,
        families=source.families,
        parameter_size=source.parameter_size,
        quantization=result.quantization or source.quantization,
        context_length=result.context_length or source.context_length,
        embedding_length=result.embedding_length or source.embedding_length,
        files=files,
        capabilities=record.capabilities,
        converted_from=record.weights.digest if record.weights else None,
    )


def converted_name(source: ModelName, converter: str) -> ModelName:
    """``smollm2:q4_1`` becomes ``smollm2:q4_1-onnx``, ``llama3:latest`` ``llama3:onnx``."""
    tag = converter if source.tag == DEFAULT_TAG else f"{source.tag[: _TAG_LIMIT - 1 - len(converter)]}-{converter}"
    return msgspec.structs.replace(source, tag=tag)


def quantized_name(source: ModelName, kind: str) -> ModelName:
    """``smollm2:q4_1`` becomes ``smollm2:q8_0``, ``llama3:latest`` ``llama3:q8_0``, ``m:3b-q4_1`` ``m:3b-q8_0``."""
    if source.tag == DEFAULT_TAG:
        return msgspec.structs.replace(source, tag=kind.lower())
    stem, _ = split_quantization(f"-{source.tag}" if source.tag.startswith("-") else f"x-{source.tag}")
    rest = stem.removeprefix("x").removeprefix("-")
    return converted_name(msgspec.structs.replace(source, tag=rest or DEFAULT_TAG), kind.lower())
