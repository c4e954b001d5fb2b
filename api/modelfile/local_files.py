"""Finds the files of this machine that a Modelfile names: a file, or those in a folder that make up a model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from corral.core.catalog.joining import siblings_of
from corral.core.errors import InvalidRequest, NotFound
from corral.core.models.checkpoint_folders import COMPANIONS, WEIGHTS, matching

__all__ = ("adapter_files_at", "files_at", "is_certainly_a_path", "named_relatively", "resolved")

_WEIGHTS = (WEIGHTS, "consolidated*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf",
            "*.bin")  # fmt: skip
"""In Ollama's order: the first of these that matches files decides what the model consists of."""

_ADAPTER_WEIGHTS, _ADAPTER_SETTINGS = "*.safetensors", "adapter_config.json"
_ENDINGS = (".gguf", ".safetensors", ".bin")


def resolved(written: str, folder: Path) -> Path:
    """The path that FROM or ADAPTER names: ``~`` is a home, and a relative one begins in the Modelfile's folder."""
    try:
        return folder / Path(written).expanduser()
    except RuntimeError as error:  # no such user
        raise NotFound(f"there is no folder {written}: {error}") from error


def is_certainly_a_path(written: str) -> bool:
    """Whether this is no name of a model."""
    return written.startswith((".", "/", "~", os.sep)) or written.lower().endswith(_ENDINGS)


def files_at(path: Path) -> list[Path]:
    """The file with the other parts of its weights, if it is one of several, or the files of the model in this folder.
    Raises `NotFound` and `InvalidRequest`."""
    if not path.exists():
        raise NotFound(f"there is no file or folder {path}", "paths begin in the folder of the Modelfile")
    if not path.is_dir():
        return list(siblings_of(path))
    for pattern in _WEIGHTS:
        if found := matching(path, pattern):
            nested = matching(path, f"*/{pattern}") if pattern == _WEIGHTS[0] else []
            is_whole = pattern in _WEIGHTS[-2:]  # it has its settings and its tokenizer inside
            beside = [] if is_whole else [file for one in COMPANIONS for file in matching(path, one)]
            return [*found, *nested, *beside]
    raise InvalidRequest(
        "no Modelfile or safetensors files found",
        f"{path} has no weights; a folder for another engine is imported: corral import FOLDER",
    )


def adapter_files_at(path: Path) -> list[Path]:
    """The file of an adapter in GGUF, or those of PEFT's in this folder, or beside this one. Raises as `files_at`."""
    folder = path if path.is_dir() else path.parent
    settings = folder / _ADAPTER_SETTINGS
    weights = matching(path, _ADAPTER_WEIGHTS) if path.is_dir() else [path] * path.name.endswith(".safetensors")
    if weights and path.exists():
        if settings.is_file():
            return [*weights, settings]
        if not matching(path, "*.gguf"):
            raise InvalidRequest(
                f"{settings} is missing, without which {weights[0].name} is no adapter",
                "PEFT saves both in one folder: copy it from there",
            )
    return files_at(path)


def named_relatively(files: Iterable[Path]) -> dict[str, Path]:
    """The files by their names below the folder that has them all, with ``/`` between parts."""
    whole = [Path(os.path.abspath(file)) for file in files]
    if not whole:
        return {}
    root = Path(os.path.commonpath([file.parent for file in whole]))
    return {file.relative_to(root).as_posix(): file for file in whole}
