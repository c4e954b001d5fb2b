"""Reads the weights of a GGUF file as NumPy arrays, a range of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.gguf.dequantize import dequantize
from corral.adapters.formats.gguf.header import Array, Header, HeaderFile, Tensor
from corral.adapters.formats.gguf.tables import TENSOR_TYPES
from corral.core.errors import InvalidModelFile
from corral.core.random_access import RandomAccessFile
from corral.core.regular_files import open_regular

__all__ = ("GgufTensors",)

_BLOCKS = {kind.name: (kind.block, kind.block_bytes) for kind in TENSOR_TYPES.values()}
_CHUNK_ELEMENTS = 4 * 1024 * 1024


class GgufTensors:
    """An open GGUF file, used with ``with``. Only the requested rows are in memory.

    Reads instead of mapping: if a mapped file is truncated, the process dies. Opening raises `InvalidModelFile` if the
    file is not GGUF or is truncated. For one thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source = RandomAccessFile(path)
        try:
            self._headers = HeaderFile(self._source)
            self._header: Header = self._headers.header()
            self._file = open_regular(path)
        except BaseException:
            self._source.__exit__()
            raise
        self._tensors = {tensor.name: tensor for tensor in self._header.tensors}

    def __enter__(self) -> GgufTensors:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
        self._source.__exit__()

    @property
    def pairs(self) -> Mapping[str, Any]:
        """The header's key-values. Arrays are given by their positions: see `array`."""
        return self._header.pairs

    def array(self, key: str) -> list[Any] | None:
        """The values of the header's array `key`; None if there is no such array, or if it is absurdly long."""
        found = self._header.pairs.get(key)
        return self._headers.values(found) if isinstance(found, Array) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names in the file's order."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """In NumPy's order: ``(rows, columns)`` for a matrix. GGUF's own order is the reverse."""
        return self._tensor(name).shape[::-1]

    def type(self, name: str) -> str:
        """ggml's name of the type: ``F32``, ``Q4_1``, ``Q6_K``."""
        return self._tensor(name).type_name

    def dequantized(self, name: str) -> NDArray[np.float32]:
        """The whole tensor as float32. Raises `Unsupported` if `dequantize` does not support its type."""
        tensor = self._tensor(name)
        whole = np.empty(tensor.shape[::-1], dtype=np.float32)
        columns = tensor.shape[0] if tensor.shape else 1
        flat = whole.reshape(-1, columns)
        step = max(1, _CHUNK_ELEMENTS // max(columns, 1))
        for start in range(0, len(flat), step):
            flat[start : start + step] = self.rows(name, start, start + step)
        return whole

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` (cut at the end) as float32; the dimensions before the last count as one."""
        tensor = self._tensor(name)
        blocks = self.blocks(name, start, stop)
        columns = tensor.shape[0] if tensor.shape else 1
        return dequantize(tensor.type_name, blocks.reshape(-1, blocks.shape[-1])).reshape(-1, columns)

    def blocks(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """The stored bytes of some rows: ``(rows, blocks in a row, bytes of a block)``; layouts as in `dequantize`."""
        tensor = self._tensor(name)
        block, block_bytes = _BLOCKS[tensor.type_name]
        per_row = (tensor.shape[0] if tensor.shape else 1) // block
        row_bytes = per_row * block_bytes
        count = max(0, min(stop, math.prod(tensor.shape[1:])) - start)
        data = self._read(tensor, start * row_bytes, count * row_bytes)
        return data.reshape(count, per_row, block_bytes)

    def _read(self, tensor: Tensor, skipped_bytes: int, size_bytes: int) -> NDArray[np.uint8]:
        data = np.empty(size_bytes, dtype=np.uint8)
        view = memoryview(data.data)
        try:
            self._file.seek(tensor.offset_bytes + skipped_bytes)
            while view and (count := self._file.readinto(view)):
                view = view[count:]
        except OSError as error:
            raise InvalidModelFile(f"{self._path}: the tensor {tensor.name!r}: {error.strerror}") from error
        if view:
            raise InvalidModelFile(
                f"{self._path}: the file ends within the tensor {tensor.name!r}: it shrank while being read",
                "fetch the model again",
            )
        return data

    def _tensor(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise InvalidModelFile(
                f"{self._path}: it has no tensor {name!r}, which its architecture needs", "fetch the model again"
            )
        return tensor
