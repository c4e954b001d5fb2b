"""Selects the files of a folder that make up a model: what ONNX Runtime GenAI or a sentence encoder needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from corral.core.errors import InvalidModelFile, NotFound, StorageError
from corral.core.malformed import MALFORMED
from corral.core.models.folder_facts import FACT_FILES
from corral.core.models.model import FileRole
from corral.core.models.paths import check_together
from corral.core.models.unread_weights import refuse_folder
from corral.core.values import Value

__all__ = ("FolderFile", "is_left_out", "model_paths", "scan_folder")

_DEPTH_LIMIT = 4
_FILES_LIMIT = 500
_SMALL_FILE_LIMIT_BYTES = 128 * 1024 * 1024  # the largest tokenizers take 40 MB
_FACTS_LIMIT_BYTES = 16 * 1024 * 1024  # these are read whole whenever the manifest is read

_GENAI = "genai_config.json"
_ONNX, _ADAPTER = ".onnx", ".onnx_adapter"
_SMALL_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".vocab", ".yaml", ".yml"})
_DOC_SUFFIXES = frozenset({".md", ".rst"})
_DOC_STEMS = frozenset({"license", "licence", "copying", "notice", "readme"})
# Weights of other frameworks, programs, and pictures: no engine for folder models reads them.
_LEFT_OUT = frozenset(
    {".ckpt", ".gguf", ".h5", ".mlmodel", ".msgpack", ".npz", ".ot", ".pickle", ".pkl", ".pt", ".pth", ".safetensors"}
    | {".dll", ".dylib", ".exe", ".gif", ".jpg", ".png", ".py", ".pyc", ".sh", ".so", ".tflite", ".xml", ".zip"}
)
_LEFT_OUT_STEMS = ("pytorch_model", "openvino_model", "training_args")


class _Decoder(msgspec.Struct, frozen=True):
    filename: str | None = None


class _GenaiModel(msgspec.Struct, frozen=True):
    decoder: _Decoder = _Decoder()


class _GenaiConfig(msgspec.Struct, frozen=True):
    """The fields that are read from ``genai_config.json``."""

    model: _GenaiModel


class FolderFile(Value, frozen=True, kw_only=True):
    """A file of the model: `path` is relative to the folder, with ``/`` between parts; `file` is where it is."""

    path: str
    file: str
    role: FileRole


def is_left_out(path: str) -> bool:
    """Whether a file, by its path in the folder, belongs to no model that an engine here reads."""
    *folders, name = path.split("/")
    hidden = len(folders) > _DEPTH_LIMIT or any(part[:1] in ("", ".") for part in (*folders, name))
    return hidden or Path(name).suffix.lower() in _LEFT_OUT or name.startswith(_LEFT_OUT_STEMS)


def model_paths(paths: Sequence[str], where: str) -> list[str]:
    """Those of the files in `where`, none of which `is_left_out`, that make up a model. Raises `InvalidModelFile`."""
    return list(paths) if _GENAI in paths else _encoder_paths(where, paths)


def scan_folder(folder: Path, *, own_links: bool = False) -> tuple[FolderFile, ...]:
    """The files that make up a model, sorted by path. Blocking; reads names, sizes and a few bytes.

    With ``genai_config.json``, every ONNX file is part of the model. Without it, one ONNX file is the encoder
    (``model.onnx`` or ``onnx/model.onnx`` if there are several), and ``tokenizer.json`` is required. Hidden files and
    weights of other frameworks are left out. Raises `NotFound`, and `InvalidModelFile` for a folder that is not a
    model, or has links that lead out of it, unless they are our `own_links`, and `Unsupported` for PyTorch's own files.
    """
    if not folder.is_dir():
        raise NotFound(f"no such folder: {folder}")
    try:
        found = _files(folder, None if own_links else folder.resolve(strict=True))
        for path, size_bytes in found.items():
            _check_size(folder / path, path, size_bytes)
        paths = sorted(found)
        if not any(path == _GENAI or path.endswith(_ONNX) for path in paths):
            refuse_folder(folder)
        if _GENAI in found:
            _check_generator(folder, paths)
        kept = model_paths(paths, str(folder))
        for path in kept:
            if path.endswith(_ONNX):
                _check_onnx(folder / path)
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error}") from error
    files = tuple(FolderFile(path=path, file=str(folder / path), role=_role(path)) for path in kept)
    try:
        check_together(file.path for file in files)
    except StorageError as error:
        raise InvalidModelFile(f"{folder}: {error.message}", error.remedy) from error
    return files


def _files(folder: Path, root: Path | None) -> dict[str, int]:
    """Path and size of each regular file that may belong to the model. With `root`, links must not lead out of it."""
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder):
        above = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if name[0] != "." and len(above.parts) < _DEPTH_LIMIT)
        for name in names:
            file = Path(place, name)
            if is_left_out((above / name).as_posix()):
                continue
            if root is not None and file.is_symlink():
                _check_link(file, root)
            status = file.stat()
            if stat.S_ISREG(status.st_mode):
                found[(above / name).as_posix()] = status.st_size
            if len(found) > _FILES_LIMIT:
                raise InvalidModelFile(f"{folder} has more than {_FILES_LIMIT} files", "import the model's own folder")
    return found


def _check_link(file: Path, root: Path) -> None:
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # circular links are a RuntimeError before Python 3.13
        raise InvalidModelFile(f"{file} is a broken link", "remove it, or fetch the file") from error
    if not target.is_relative_to(root):
        raise InvalidModelFile(
            f"{file} is a link to {target}, outside of the folder",
            "copy the folder with its links resolved: cp -RL FOLDER COPY",
        )


def _check_size(file: Path, path: str, size_bytes: int) -> None:
    limit = _FACTS_LIMIT_BYTES if path in FACT_FILES else _SMALL_FILE_LIMIT_BYTES
    if size_bytes > limit and _role(path) not in ("weights", "adapter"):
        raise InvalidModelFile(f"{file} has {size_bytes} bytes; files of this kind may have at most {limit}")


def _check_generator(folder: Path, paths: list[str]) -> None:
    config = folder / _GENAI
    try:
        wanted = msgspec.json.decode(config.read_bytes(), type=_GenaiConfig).model.decoder.filename
    except MALFORMED as error:
        raise InvalidModelFile(f"{config} is malformed: {error}", "download the model again") from error
    models = [path for path in paths if path.endswith(_ONNX)]
    if not models or (wanted is not None and wanted not in paths):
        raise InvalidModelFile(f"{folder}: the file {wanted or '*.onnx'} that genai_config.json needs is missing")


def _encoder_paths(folder: str, paths: Sequence[str]) -> list[str]:
    models = [path for path in paths if path.endswith(_ONNX)]
    if not models:
        raise InvalidModelFile(
            f"{folder}: not a known kind of model folder: it contains neither genai_config.json nor an .onnx file, nor "
            "a checkpoint (config.json and model*.safetensors)",
            "to import a GGUF file, give the path of the file itself",
        )
    usual = [path for path in ("model.onnx", "onnx/model.onnx") if path in models]
    chosen = (usual or models)[0]
    if not usual and len(models) > 1:
        raise InvalidModelFile(
            f"{folder}: it has several ONNX files ({', '.join(models[:8])}), and none is named model.onnx",
            "rename the right one to model.onnx, or remove the others",
        )
    if "tokenizer.json" not in paths:
        raise InvalidModelFile(
            f"{folder}: tokenizer.json is missing", "copy the tokenizer.json of the original model into the folder"
        )
    # Names that begin with another model's name are that model's data: model_fp16.onnx, model_fp16.onnx_data.
    others = tuple(path for path in models if path != chosen)
    return [path for path in paths if not path.startswith(others)]


def _check_onnx(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] != b"\x08":  # field 1 of ModelProto, ir_version, which is always written first
        raise InvalidModelFile(f"{path} is not an ONNX model: it begins with {start!r}", "download the file again")


def _role(path: str) -> FileRole:
    name = path.rpartition("/")[2].lower()
    stem, dot, suffix = name.rpartition(".")
    suffix = dot + suffix
    if suffix == _ADAPTER:
        return "adapter"
    if (stem or name).partition(".")[0] in _DOC_STEMS or suffix in _DOC_SUFFIXES:
        return "license" if name.startswith(("license", "licence", "copying")) else "other"
    return "config" if suffix in _SMALL_SUFFIXES else "weights"
