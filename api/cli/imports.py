"""Imports files and folders of this machine for commands: none twice, and by default none over another model."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from corral.api.cli.fetched import FetchedModels
from corral.api.cli.output import echo
from corral.api.cli.progress import transfer_progress
from corral.api.cli.replacing import holder, taken
from corral.api.library import Corral
from corral.core.catalog.checkpoints import CHECKPOINT_SUFFIX
from corral.core.catalog.joining import parts_in, siblings_of
from corral.core.errors import Conflict, NotFound
from corral.core.models.checkpoint_folders import checkpoint_digest, checkpoint_in
from corral.core.models.digests import Digest
from corral.core.models.file_addresses import FILE_SCHEME, path_of_address
from corral.core.models.folders import scan_folder
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.blobs import BlobInfo
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.wording.suggestions import nearest

__all__ = ("import_named", "imported", "near_path", "remember_import")


def imported(corral: Corral, path: str) -> str:
    """The name of the model in a file or folder, which is imported if it is not in the store, or has changed since.

    Raises `Conflict` if another model has that name, and what `Corral.import_model` raises.
    """
    place = path_of_address(path) if path.startswith(f"{FILE_SCHEME}://") else Path(path).expanduser()
    if not place.exists():
        raise NotFound(f"there is no file or folder {path}", near_path(place))
    models = {record.name.short: record.digest for record in corral.list()}
    name = FetchedModels().find(_key(place), models, _seal(place))
    if name is None:
        with transfer_progress() as show:
            record = _import(corral, place, show)
        remember_import(place, record)
        name = record.name.short
        echo(f"imported {path} as {name}", err=True)
    else:
        echo(f"{path} is {name} in the store", err=True)
    return name


def import_named(
    corral: Corral, path: Path, name: str | None, quantize: str, show: OnProgress
) -> tuple[StoredModel, Digest | None]:
    """The model, and the digest that the one of this name had before, if there was one.

    Raises `Conflict` if no name is given, and another model has the one that it would get by default; and what
    `Corral.import_model` raises.
    """
    before = None
    if name is not None:
        before = holder(corral, parse_name(name))
    elif path.exists() and (not quantize or _checkpoint(path)):
        default = _default_name(corral, path, quantize)
        before = holder(corral, default)
        if before is not None:
            show(FetchProgress(status=f"comparing {path.name} with {default.short}"))
            if not _is_of(corral, path, before):
                raise taken(before, _command(path, quantize))
    record = corral.import_model(path, name=name, quantize=quantize, on_progress=show)
    return record, None if before is None else before.digest


def remember_import(path: Path, record: StoredModel) -> None:
    """Records that `corral run PATH` means this model."""
    FetchedModels().remember(_key(path), record.name.short, record.digest, _seal(path))


def near_path(path: Path) -> str:
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent}"
    near = nearest(path.name, names)
    return "check the path" if near is None else f"did you mean {path.parent / near}?"


def _import(corral: Corral, path: Path, show: OnProgress) -> StoredModel:
    name = _default_name(corral, path)
    before = holder(corral, name)
    if before is None:
        return corral.import_model(path, on_progress=show)
    show(FetchProgress(status=f"comparing {path.name} with {name.short}"))
    if not _is_of(corral, path, before):
        raise taken(before, _command(path))
    known = FetchedModels().seal(_key(path), before.name.short, before.digest)
    if known and known.rpartition(" ")[2] != _settings(path):
        raise Conflict(
            f"{name.short} in the store was made from these weights, but other files in {path} have changed since",
            f"{_command(path)} {name.short} replaces it",
        )
    return before


def _default_name(corral: Corral, path: Path, quantize: str = "") -> ModelName:
    importer = corral.runtime().catalog.importer
    return corral.call(lambda _: importer.name_of(path, quantize))


def _command(path: Path, quantize: str = "") -> str:
    return f"corral import {shlex.quote(str(path))}" + (f" -q {quantize}" if quantize else "") + " --name"


def _is_of(corral: Corral, path: Path, record: StoredModel) -> bool:
    """Whether `record` has the weights in `path`, or was made from them."""
    checkpoint = _checkpoint(path)
    if not checkpoint:
        return _same_files(path, record) or _is_split(corral, path, record)
    if record.converted_from is None:
        return False
    weights = {name: _digest(file) for name, file in checkpoint.items() if _is_weights(name)}
    return checkpoint_digest(weights) == record.converted_from


def _same_files(path: Path, record: StoredModel) -> bool:
    """Whether importing `path` would give `record` again. Hashes the files only if their sizes match."""
    files = _files(path)
    sizes = {file.size_bytes for file in record.files}
    if any(file.stat().st_size not in sizes for file in files):
        return False
    return {_digest(file) for file in files} <= {file.digest for file in record.files}


def _is_split(corral: Corral, path: Path, record: StoredModel) -> bool:
    if record.weights is None:
        return False
    weights = BlobInfo(digest=record.weights.digest, size_bytes=record.weights.size_bytes)
    importer = corral.runtime().catalog.importer
    return corral.call(lambda _: importer.is_split(path, weights))


def _checkpoint(path: Path) -> Mapping[str, Path]:
    return checkpoint_in(path) if path.is_dir() else {}


def _is_weights(name: str) -> bool:
    return name.endswith(CHECKPOINT_SUFFIX)


def _files(path: Path) -> list[Path]:
    """The files that an import of `path` takes."""
    if not path.is_dir():
        return list(siblings_of(path))
    return list(checkpoint_in(path).values()) or list(parts_in(path)) or [Path(file.file) for file in scan_folder(path)]


def _digest(file: Path) -> Digest:
    with file.open("rb") as data:
        return Digest(f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}")


def _key(path: Path) -> str:
    return f"file:{path.resolve()}"


def _seal(path: Path) -> str:
    """Two digests, which change when the model does: of the sizes and times of its files, and of the content of those
    beside the weights of a checkpoint, whose times do not count. Raises what `scan_folder` raises.
    """
    beside = {file for name, file in _checkpoint(path).items() if not _is_weights(name)}
    states = [(os.path.relpath(file, path), file.stat()) for file in _files(path) if file not in beside]
    return (
        f"{_hashed(f'{name} {one.st_size} {one.st_mtime_ns} {one.st_ino}' for name, one in states)} {_settings(path)}"
    )


def _settings(path: Path) -> str:
    """A digest of the files beside the weights of a checkpoint: its settings, and its tokenizer."""
    files = sorted(item for item in _checkpoint(path).items() if not _is_weights(item[0]))
    return _hashed(f"{name} {_digest(file)}" for name, file in files)


def _hashed(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
