"""Says why weights that only other programs read are not taken, and what to do: `refuse_file`, `refuse_folder`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.models.checkpoint_folders import WEIGHTS, matching

__all__ = ("refuse_file", "refuse_folder", "refuse_pickles")

_CONFIG = "config.json"
_PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
_ADAPTERS = "adapter_*.safetensors"


def refuse_pickles(paths: Iterable[str]) -> None:
    """Raises `Unsupported` if one of the paths is a file that PyTorch saves."""
    for path in paths:
        if any(fnmatchcase(path.rpartition("/")[2], pattern) for pattern in _PICKLES):
            raise Unsupported(
                f"{path} is one of PyTorch's own files, which are not read: they may contain any program",
                "save the model as safetensors",
            )


def refuse_file(path: Path) -> None:
    """Raises `InvalidModelFile` for a part of a checkpoint or of an adapter, and `Unsupported` as `refuse_pickles`."""
    refuse_pickles([str(path)])
    if path.suffix != ".safetensors":
        return
    if fnmatchcase(path.name, _ADAPTERS):
        raise _adapter(path, path.parent)
    raise InvalidModelFile(
        f"{path} is a part of a checkpoint, which has its settings and its tokenizer in other files",
        f"import its folder: corral import {shlex.quote(str(path.parent))}",
    )


def refuse_folder(folder: Path) -> None:
    """Raises `InvalidModelFile` that says what is missing in a folder with a part of a checkpoint, and `Unsupported`
    for one with nothing but files that PyTorch saves. Blocking."""
    found = matching(folder, "*.safetensors")
    weights = [file for file in found if fnmatchcase(file.name, WEIGHTS)]
    if weights and not (folder / _CONFIG).is_file():
        raise InvalidModelFile(
            f"{folder}: {weights[0].name} is the weights of a checkpoint, but {_CONFIG} is missing",
            "copy it and the files of the tokenizer from the original model into the folder",
        )
    if found and not weights:
        if fnmatchcase(found[0].name, _ADAPTERS):
            raise _adapter(found[0], folder)
        raise InvalidModelFile(
            f"{folder}: the weights of a checkpoint are named {WEIGHTS}, and here is {found[0].name}",
            "rename them",
        )
    refuse_pickles(str(file) for file in matching(folder, "*"))


def _adapter(file: Path, folder: Path) -> InvalidModelFile:
    return InvalidModelFile(
        f"{file} is an adapter, not a model",
        f"create a model with it, from a Modelfile: FROM MODEL, and ADAPTER {folder}",
    )
