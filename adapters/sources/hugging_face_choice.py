"""Chooses the files of a model among those of a repository: a GGUF file with its projector, or a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from corral.core.errors import InvalidModelFile, SourceError
from corral.core.models.checkpoint_folders import checkpoint_paths
from corral.core.models.digests import Digest
from corral.core.models.folders import is_left_out, model_paths
from corral.core.models.quantization_types import QuantizationType, quantization_type
from corral.core.models.split_names import parse_part_name, whole_name
from corral.core.values import Value

__all__ = ("RepositoryFile", "chosen_folder", "chosen_gguf", "wanted_type")

_ENDING = ".gguf"
_USUAL = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "Q5_K_M", "Q5_0", "Q6_K", "Q8_0", "F16", "BF16")
_PROJECTORS = ("f16", "bf16", "q8_0", "f32")
_SHOWN = 12


class RepositoryFile(Value, frozen=True, kw_only=True):
    """`digest` is None for a file that the repository keeps in git itself."""

    path: str
    size_bytes: int
    digest: Digest | None = None


def chosen_gguf(files: Sequence[RepositoryFile], wanted: str, where: str) -> tuple[RepositoryFile, ...]:
    """The weights, and the projector beside them if there is one; empty if the repository has no GGUF file.

    `wanted` is a quantization, the path of a file, or empty for the usual one. Raises `SourceError` if it fits none or
    several, or if parts of split weights are missing.
    """
    found = [file for file in files if file.path.lower().endswith(_ENDING)]
    projectors = [file for file in found if "mmproj" in _name(file.path).lower()]
    weights = [file for file in found if file not in projectors]
    exact = [file for file in found if wanted in (file.path, _name(file.path))]
    if not weights and not exact:
        return ()
    chosen = exact or _of_quantization(weights, wanted)
    shown = ", ".join(file.path for file in (chosen or weights)[:_SHOWN])
    if not chosen:
        raise SourceError(f"{where} has no {wanted}", f"it has {shown}")
    if len({whole_name(file.path) for file in chosen}) > 1:
        raise SourceError(f"{where} has several files for {wanted or 'a model'}: {shown}", "add one to it: :FILE")
    return (*_with_siblings(chosen[0], found, where), *_projector(projectors, chosen[0]))


def wanted_type(files: Sequence[RepositoryFile], wanted: str) -> QuantizationType | None:
    """The type that `wanted` names, for weights that have to be quantized; None if it is a folder's path."""
    folder = wanted.strip("/")
    return None if any(file.path.startswith(f"{folder}/") for file in files) else quantization_type(folder)


def chosen_folder(files: Sequence[RepositoryFile], wanted: str, where: str) -> tuple[str, tuple[RepositoryFile, ...]]:
    """A folder and the files in it that make up an ONNX model or a checkpoint, as `corral import` would take them.

    `wanted` is the folder's path, or empty for the repository itself or the only one in it. Raises `SourceError`.
    """
    folders = sorted({_folder(file.path) for file in files if _name(file.path) == "genai_config.json"})
    folder = wanted.strip("/") or (folders[0] if len(folders) == 1 else "")
    above = f"{folder}/" if folder else ""
    inside = {
        file.path.removeprefix(above): file
        for file in files
        if file.path.startswith(above) and not is_left_out(file.path.removeprefix(above))
    }
    if not any(path.endswith(".onnx") for path in inside):
        whole = {file.path.removeprefix(above): file for file in files if file.path.startswith(above)}
        if checkpoint := checkpoint_paths(whole):
            return folder, tuple(whole[path] for path in checkpoint)
        if folders:
            raise SourceError(f"{where} has several models", f"add one of these to it: {', '.join(folders[:_SHOWN])}")
        held = sorted({f"*.{_name(file.path).rpartition('.')[2]}" for file in files if "." in _name(file.path)})
        raise SourceError(
            f"{where} has no GGUF or ONNX files{f' in {folder}' if folder else ''}, but {', '.join(held[:_SHOWN])}",
            "pull a repository with a GGUF, ONNX or safetensors version of the model",
        )
    try:
        return folder, tuple(inside[path] for path in model_paths(sorted(inside), where))
    except InvalidModelFile as error:
        raise SourceError(error.message, "add the folder of the model to it: :FOLDER") from error


def _with_siblings(file: RepositoryFile, found: Sequence[RepositoryFile], where: str) -> list[RepositoryFile]:
    """All parts of the weights that the file belongs to, in their order."""
    name = parse_part_name(file.path)
    if name is None:
        return [file]
    by_path = {one.path: one for one in found}
    missing = [path for path in name.siblings if path not in by_path]
    if missing:
        raise SourceError(
            f"{where} lacks {', '.join(missing[:_SHOWN])}, which belong to {file.path}", "pull another version of it"
        )
    return [by_path[path] for path in name.siblings]


def _of_quantization(weights: Sequence[RepositoryFile], wanted: str) -> list[RepositoryFile]:
    if wanted:
        return [file for file in weights if _has(file.path, wanted)]
    if len({whole_name(file.path) for file in weights}) == 1:
        return list(weights)
    usual = ([file for file in weights if _has(file.path, one)] for one in _USUAL)
    return next((found for found in usual if found), list(weights))


def _has(path: str, quantization: str) -> bool:
    """Whether the name of the file ends with it, or a folder is called so, in whatever case."""
    quantization, stem = quantization.lower(), _stem(whole_name(path)).lower()
    ends = stem == quantization or re.search(rf"[-._]{re.escape(quantization)}$", stem) is not None
    return ends or quantization in _folder(path).lower().split("/")


def _projector(projectors: Sequence[RepositoryFile], weights: RepositoryFile) -> list[RepositoryFile]:
    """The one in the folder of the weights, or else above it; of several, the one with 16 bits."""
    for folder in dict.fromkeys((_folder(weights.path), "")):
        near = sorted((file for file in projectors if _folder(file.path) == folder), key=lambda file: file.path)
        for quantization in _PROJECTORS:
            if fit := [file for file in near if re.search(rf"[-._]{quantization}\b", _stem(file.path).lower())]:
                return fit[:1]
        if near:
            return near[:1]
    return []


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _stem(path: str) -> str:
    return _name(path).rpartition(".")[0]
