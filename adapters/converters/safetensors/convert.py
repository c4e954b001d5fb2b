"""Converts a checkpoint into one GGUF file. Runs as a job, in a separate process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from corral.adapters.converters.safetensors.architectures import FAMILIES
from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.family import CheckpointFamily, PlannedTensor
from corral.adapters.converters.safetensors.spec import GgufParameters
from corral.adapters.converters.safetensors.tensor_data import element_bytes, pieces_of
from corral.adapters.formats.gguf.file_writer import GgufFile
from corral.adapters.formats.gguf.reader import GgufReader
from corral.adapters.formats.gguf.tables import FILE_TYPES
from corral.adapters.formats.gguf.writer import NewTensor
from corral.core.errors import InvalidModelFile, InvalidOption, PluginError, Unsupported
from corral.core.random_access import RandomAccessFile
from corral.core.specs.converters import ConvertedFile, ConvertRequest, ConvertResult

__all__ = ("convert", "convert_checkpoint")

_FILE = "model.gguf"
_FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
_QUANTIZATION_VERSION = 2


def convert(request: ConvertRequest, on_progress: Callable[[float], None]) -> ConvertResult:
    """`convert_checkpoint` with the families that come with Corral."""
    return convert_checkpoint(request, on_progress, FAMILIES)


def convert_checkpoint(
    request: ConvertRequest,
    on_progress: Callable[[float], None],
    families: Mapping[str, CheckpointFamily | str],
) -> ConvertResult:
    """Writes ``model.gguf`` into the request's folder, on disk when this returns. Memory is bounded by one tensor.

    The request's files are those of a checkpoint, by their names in its folder. `families` are given by architecture,
    as ``config.json`` names it, or as import paths (``package.module:family``). Raises `Unsupported` for an
    architecture that is not among them, or what its family cannot convert, `InvalidModelFile`, `InvalidOption` for
    parameters, `OutOfSpace` and `StorageError`.
    """
    parameters = _parameters(request)
    files = {file.name: Path(file.path) for file in request.files if file.name is not None}
    with Checkpoint(files) as checkpoint:
        family = _family(checkpoint, families)
        plan = _plan(checkpoint, family)
        _check_all_used(checkpoint, family, plan)
        kind = _kind(checkpoint, plan, parameters)
        types = [kind if _may_be_short(checkpoint, tensor) else "F32" for tensor in plan]
        tensors = [_new(checkpoint, tensor, name) for tensor, name in zip(plan, types, strict=True)]
        pairs = {
            **family.keys(checkpoint),
            "general.type": "model",
            "general.file_type": _FILE_TYPE_NUMBERS[kind],
            "general.quantization_version": _QUANTIZATION_VERSION,
            **family.tokenizer(checkpoint),
        }
        target = Path(request.folder) / _FILE
        total, done = max(1, sum(tensor.size_bytes for tensor in tensors)), 0
        with GgufFile(target, pairs, tensors) as file:
            for tensor, name in zip(plan, types, strict=True):
                for numbers in pieces_of(checkpoint.tensors, tensor, name):
                    done += _written(file, tensor, numbers)
                    on_progress(done / total)
    with RandomAccessFile(target) as result:
        metadata = GgufReader().read(result)
    return ConvertResult(
        files=(ConvertedFile(path=_FILE),),
        format="gguf",
        quantization=metadata.file_type,
        context_length=metadata.context_length,
        embedding_length=metadata.embedding_length,
    )


def _parameters(request: ConvertRequest) -> GgufParameters:
    try:
        return msgspec.convert(dict(request.parameters), GgufParameters)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"parameters of the gguf converter: {error}") from error


def _family(checkpoint: Checkpoint, families: Mapping[str, CheckpointFamily | str]) -> CheckpointFamily:
    named = checkpoint.config.raw("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    if architecture is None or architecture not in families:
        raise Unsupported(
            f"the architecture {architecture!r} cannot be converted", f"there are: {', '.join(sorted(families))}"
        )
    family = families[architecture]
    if isinstance(family, str):
        module, _, name = family.partition(":")
        found: CheckpointFamily = getattr(import_module(module), name)
        return found
    return family


def _plan(checkpoint: Checkpoint, family: CheckpointFamily) -> list[PlannedTensor]:
    """All tensors. Ends at the first whose source is missing, so that an absurd number of layers costs nothing."""
    plan = []
    for tensor in family.tensors(checkpoint):
        for name in tensor.sources:
            checkpoint.tensors.shape(name)
        plan.append(tensor)
    return plan


def _kind(checkpoint: Checkpoint, plan: Sequence[PlannedTensor], parameters: GgufParameters) -> str:
    """The type of the file: the one asked for, else BF16 if most numbers of the matrices are, else F16."""
    if parameters.type != "auto":
        return parameters.type
    numbers = {"BF16": 0, "F16": 0, "F32": 0}
    for name in {name for tensor in plan for name in tensor.sources}:
        shape = checkpoint.tensors.shape(name)
        if len(shape) > 1:
            numbers[checkpoint.tensors.dtype(name)] += math.prod(shape)
    return "BF16" if numbers["BF16"] > numbers["F16"] + numbers["F32"] else "F16"


def _check_all_used(checkpoint: Checkpoint, family: CheckpointFamily, plan: Sequence[PlannedTensor]) -> None:
    used = {name for tensor in plan for name in tensor.sources}
    left = [name for name in checkpoint.tensors.names if name not in used and not family.ignored(name)]
    if left:
        shown = ", ".join(name[:100] for name in left[:5]) + (" …" if len(left) > 5 else "")
        raise Unsupported(
            f"the checkpoint has {len(left)} tensors that its architecture is not known to have: {shown}",
            "it may be quantized, or a variant of the architecture",
        )


def _shape(checkpoint: Checkpoint, tensor: PlannedTensor) -> tuple[int, ...]:
    return checkpoint.tensors.shape(tensor.sources[0]) if tensor.shape is None else tensor.shape


def _may_be_short(checkpoint: Checkpoint, tensor: PlannedTensor) -> bool:
    return not tensor.keep_f32 and len(_shape(checkpoint, tensor)) > 1


def _new(checkpoint: Checkpoint, tensor: PlannedTensor, type_name: str) -> NewTensor:
    shape = _shape(checkpoint, tensor)
    if not shape or 0 in shape or len(shape) > 4:
        raise InvalidModelFile(f"the tensor {tensor.name!r} would have the shape {list(shape)}", "fetch it again")
    return NewTensor(tensor.name, type_name, shape[::-1], math.prod(shape) * element_bytes(type_name))


def _written(file: GgufFile, tensor: PlannedTensor, numbers: Any) -> int:
    try:
        return file.write(tensor.name, numbers)
    except ValueError as error:
        raise PluginError(
            f"the family's plan for {tensor.name!r} does not fit its data: {error}", "report it to its author"
        ) from error
