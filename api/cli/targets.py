"""Resolves MODEL of ``corral run``: a reference, a file or folder, a name, or the beginning of one."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

from corral.api.cli.backends import Backend
from corral.api.cli.fetched import FetchedModels
from corral.api.cli.model_facts import ModelFacts
from corral.api.cli.model_names import beginning_of, suggesting
from corral.api.cli.output import echo
from corral.api.cli.parameters import wrong_value
from corral.api.cli.progress import transfer_progress
from corral.api.cli.transfers import Transfers
from corral.api.library import Corral
from corral.core.catalog.joining import parts_in, siblings_of
from corral.core.errors import Conflict, CorralError, InvalidName, InvalidRequest, ModelNotFound, NotFound
from corral.core.models.checkpoint_folders import checkpoint_in
from corral.core.models.file_addresses import FILE_SCHEME, is_web_file, path_of_address
from corral.core.models.folders import scan_folder
from corral.core.models.model import StoredModel
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.wording.suggestions import nearest

__all__ = ("find_model", "imported", "is_path", "is_reference", "pulled", "pulled_or", "remember_import")

_FILE_ENDINGS = (".gguf", ".bin", ".onnx", ".safetensors")
_PATH_BEGINS = ("./", "../", "/", "~", f".{os.sep}", f"..{os.sep}")


def is_reference(model: str) -> bool:
    """Whether this is a source's reference. A name can have a scheme too: ``http://host/namespace/model``."""
    scheme, separator, _ = model.partition("://")
    return bool(separator) and scheme != FILE_SCHEME and (scheme not in ("http", "https") or is_web_file(model))


def is_path(model: str) -> bool:
    """Whether this can only be a path."""
    return model in (".", "..") or model.startswith((*_PATH_BEGINS, f"{FILE_SCHEME}://")) or os.path.isabs(model)


def pulled(transfers: Transfers, reference: str, *, insecure: bool = False) -> str:
    """The name of the model that the reference stands for, which is pulled if it is not in the store."""
    fetched = FetchedModels()
    name = fetched.find(reference, transfers.models())
    if name is None:
        with transfer_progress() as show:
            name = transfers.pull(reference, None, show, insecure=insecure)
        fetched.remember(reference, name, transfers.models().get(name, ""))
    _say(f"{reference} is {name} in the store")
    return name


def pulled_or(fault: ModelNotFound, transfers: Transfers, model: str, *, insecure: bool) -> str:
    """The name of a model that is not in the store, pulled from the configured registry.

    Raises `fault` if no registry is configured, or it does not have the model, or the name is the beginning of others.
    """
    if any(name.lower().startswith(model.lower()) for name in transfers.models()):
        raise fault
    try:
        with transfer_progress() as show:
            return transfers.pull(model, None, show, insecure=insecure)
    except (InvalidRequest, NotFound):
        raise fault from None
    except CorralError as error:
        raise ModelNotFound(f"{fault.message}, and it cannot be pulled: {error.message}", fault.remedy) from error


def imported(corral: Corral, path: str) -> str:
    """The name of the model in a file or folder, which is imported if it is not in the store, or has changed since.

    Raises `Conflict` if another model has that name, and what `Corral.import_model` raises.
    """
    place = path_of_address(path) if path.startswith(f"{FILE_SCHEME}://") else Path(path).expanduser()
    if not place.exists():
        raise NotFound(f"there is no file or folder {path}", _near_path(place))
    models = {record.name.short: record.digest for record in corral.list()}
    name = FetchedModels().find(_key(place), models, _seal(place))
    if name is None:
        with transfer_progress() as show:
            record = _import(corral, place, show)
        remember_import(place, record)
        name = record.name.short
        _say(f"imported {path} as {name}")
    else:
        _say(f"{path} is {name} in the store")
    return name


def remember_import(path: Path, record: StoredModel) -> None:
    """Records that `corral run PATH` means this model."""
    FetchedModels().remember(_key(path), record.name.short, record.digest, _seal(path))


def find_model(backend: Backend, model: str) -> tuple[str, ModelFacts]:
    """The model's name, and its facts: `model` itself, or the only name that begins with it.

    Raises `ModelNotFound` with the closest names, and a usage error if `model` is not a valid name.
    """
    try:
        with suggesting(model, backend.models):
            return model, backend.facts(model)
    except InvalidName as fault:
        raise wrong_value("MODEL", InvalidName(fault.message, _path_hint(model) or fault.remedy)) from fault
    except ModelNotFound as fault:
        taken = beginning_of(model, backend.models())
        if taken is None and model.lower().endswith(_FILE_ENDINGS):
            raise NotFound(f"there is no file {model}, and no model of that name", _near_path(Path(model))) from fault
        if taken is None:
            raise ModelNotFound(fault.message, _path_hint(model) or fault.remedy) from fault
    _say(f"running {taken}, the only model whose name begins with '{model}'")
    return taken, backend.facts(taken)


def _import(corral: Corral, path: Path, show: OnProgress) -> StoredModel:
    catalog = corral.runtime().catalog
    name = corral.call(lambda _: catalog.importer.name_of(path))
    holders = [record for record in corral.list() if record.name.key == name.key]
    if not holders:
        return corral.import_model(path, on_progress=show)
    show(FetchProgress(status=f"comparing {path.name} with {name.short}"))
    if not _same_files(path, holders[0]):
        raise Conflict(
            f"the store already has another model called {name.short}",
            f"corral import {shlex.quote(str(path))} --name NAME imports this one under another name",
        )
    return holders[0]


def _same_files(path: Path, record: StoredModel) -> bool:
    """Whether importing `path` would give `record` again. Hashes the files only if their sizes match."""
    files = _files(path)
    sizes = {file.size_bytes for file in record.files}
    if any(file.stat().st_size not in sizes for file in files):
        return False
    return {_digest(file) for file in files} <= {file.digest for file in record.files}


def _files(path: Path) -> list[Path]:
    """The files that an import of `path` takes."""
    if not path.is_dir():
        return list(siblings_of(path))
    return list(checkpoint_in(path).values()) or list(parts_in(path)) or [Path(file.file) for file in scan_folder(path)]


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"


def _key(path: Path) -> str:
    return f"file:{path.resolve()}"


def _seal(path: Path) -> str:
    """A digest of the sizes and times of the model's files, which changes when their content does.

    Raises what `scan_folder` raises.
    """
    states = [(os.path.relpath(file, path), file.stat()) for file in _files(path)]
    text = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns} {state.st_ino}" for name, state in states)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _path_hint(model: str) -> str | None:
    """A hint if there is a folder of that name, which may be what the user meant."""
    return f"{model} is a folder here: corral run ./{model} runs the model in it" if Path(model).is_dir() else None


def _near_path(path: Path) -> str:
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent}"
    near = nearest(path.name, names)
    return "check the path" if near is None else f"did you mean {path.parent / near}?"


def _say(text: str) -> None:
    echo(text, err=True)
