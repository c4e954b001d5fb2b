"""Writes a whole GGUF file, its data piece by piece."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding
from corral.adapters.system.files import new_file, storage_errors, write_all

__all__ = ("GgufFile",)

_VERSION = 3


class GgufFile:
    """A new file, used with ``with``; without an error, it is whole and on the disk when that ends.

    `pairs` and `tensors` are as in `gguf_header`. Writing raises `OutOfSpace` and `StorageError`, and `ValueError` if
    the data is not what `tensors` say.
    """

    def __init__(self, path: Path, pairs: Mapping[str, Any], tensors: Sequence[NewTensor]) -> None:
        self._path = path
        self._left = list(reversed(tensors))
        self._written_bytes = 0  # of the tensor that is being written
        with storage_errors(f"writing {path}"):
            self._file = new_file(path)
        try:
            with storage_errors(f"writing {path}"):
                write_all(self._file, gguf_header(_VERSION, pairs, tensors))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        with storage_errors(f"writing {self._path}"), self._file:
            if kind is None:
                self._end_empty()
                if self._left:
                    raise ValueError(f"{self._left[-1].name} and {len(self._left) - 1} more tensors are incomplete")
                os.fsync(self._file.fileno())

    def write(self, name: str, numbers: NDArray[Any]) -> int:
        """Appends to the data of the tensor `name`, which must be the next one that is incomplete. Returns the bytes
        written."""
        self._end_empty()
        if not self._left or self._left[-1].name != name:
            raise ValueError(f"{name} is not the next tensor")
        tensor = self._left[-1]
        data = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
        self._written_bytes += data.nbytes
        if self._written_bytes > tensor.size_bytes:
            raise ValueError(f"{name} has more than {tensor.size_bytes} bytes")
        with storage_errors(f"writing {self._path}"):
            write_all(self._file, data.data)
            if self._written_bytes == tensor.size_bytes:
                self._end(tensor)
        return data.nbytes

    def _end(self, tensor: NewTensor) -> None:
        write_all(self._file, bytes(padding(tensor.size_bytes)))
        self._left.pop()
        self._written_bytes = 0

    def _end_empty(self) -> None:
        while self._left and self._left[-1].size_bytes == 0:
            self._end(self._left[-1])
