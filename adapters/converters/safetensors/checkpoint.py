"""The files of a checkpoint: its tensors, its ``config.json``, and whatever lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from corral.adapters.converters.safetensors.config import Config
from corral.adapters.formats.safetensors.index import read_index
from corral.adapters.formats.safetensors.tensors import SafetensorsFiles
from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.regular_files import read_regular

__all__ = ("Checkpoint",)

_SUFFIX = ".safetensors"
_INDEX = "model.safetensors.index.json"
_LIMIT_BYTES = 64 * 1024 * 1024  # the largest tokenizers take 40 MB


class Checkpoint:
    """A checkpoint whose files are open, used with ``with``. `files` are paths by name inside the checkpoint's folder.

    Opening raises `InvalidModelFile` for files that are missing or broken, as `SafetensorsFiles` does.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self.config = Config(self.json("config.json"))
        weights = [name for name in sorted(files) if name.endswith(_SUFFIX)]
        index = files.get(_INDEX)
        if index is not None:
            named = set(read_index(index).values())
            weights = [name for name in weights if name in named]
        self.tensors = SafetensorsFiles({name: files[name] for name in weights}, index)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.tensors.__exit__(*exc_info)

    def has(self, name: str) -> bool:
        return name in self._files

    def data(self, name: str) -> bytes:
        """The content of a small file, such as ``tokenizer.model``. Raises `InvalidModelFile` if it is missing."""
        path = self._files.get(name)
        if path is None:
            raise InvalidModelFile(f"{name} is missing", "it is part of the original model: fetch it as well")
        try:
            return read_regular(path, _LIMIT_BYTES)
        except OSError as error:
            raise InvalidModelFile(f"{name}: {error.strerror or error}") from error

    def json(self, name: str) -> Mapping[str, Any]:
        """The object in a JSON file. Raises `InvalidModelFile` if it is missing or malformed."""
        try:
            return msgspec.json.decode(self.data(name), type=dict[str, Any])
        except MALFORMED as error:
            raise InvalidModelFile(f"{name} is malformed: {error}", "fetch it again") from error

    def optional_json(self, name: str) -> Mapping[str, Any]:
        """As `json`; empty if the file is missing."""
        return self.json(name) if self.has(name) else {}
