"""Resolves MODEL of ``corral run``: a reference, a name, or the beginning of one."""

from __future__ import annotations

import os
from pathlib import Path

from corral.api.cli.backends import Backend
from corral.api.cli.fetched import FetchedModels
from corral.api.cli.imports import near_path
from corral.api.cli.model_facts import ModelFacts
from corral.api.cli.model_names import beginning_of, suggesting
from corral.api.cli.output import echo
from corral.api.cli.parameters import wrong_value
from corral.api.cli.progress import transfer_progress
from corral.api.cli.transfers import Transfers
from corral.core.errors import CorralError, InvalidName, InvalidRequest, ModelNotFound, NotFound
from corral.core.models.file_addresses import FILE_SCHEME, is_web_file

__all__ = ("find_model", "is_path", "is_reference", "pulled", "pulled_or")

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
            raise NotFound(f"there is no file {model}, and no model of that name", near_path(Path(model))) from fault
        if taken is None:
            raise ModelNotFound(fault.message, _path_hint(model) or fault.remedy) from fault
    _say(f"running {taken}, the only model whose name begins with '{model}'")
    return taken, backend.facts(taken)


def _path_hint(model: str) -> str | None:
    """A hint if there is a folder of that name, which may be what the user meant."""
    return f"{model} is a folder here: corral run ./{model} runs the model in it" if Path(model).is_dir() else None


def _say(text: str) -> None:
    echo(text, err=True)
