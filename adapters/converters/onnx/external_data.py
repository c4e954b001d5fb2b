"""Writes weights into ONNX's external data file, row by row, each tensor at its place."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from corral.adapters.system.files import storage_errors

__all__ = ("ExternalData", "Region", "write_file")

_ALIGNMENT = 4096
"""ONNX Runtime maps tensors that begin at a page boundary, and copies others."""

_ELEMENT_BYTES = {TensorProto.FLOAT: 4, TensorProto.UINT8: 1}


class ExternalData:
    """An external data file that grows, to be used with ``with``; leaving flushes it to the disk.

    Writing raises `OutOfSpace` if the disk is full, `StorageError` for other errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        with storage_errors(f"writing {path}"):
            self._file = path.open("wb", buffering=0)

    def __enter__(self) -> ExternalData:
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        with storage_errors(f"writing {self._path}"), self._file:
            if kind is None:
                os.fsync(self._file.fileno())

    def tensor(self, name: str, data_type: int, shape: Sequence[int]) -> Region:
        """Reserve space for a tensor (``TensorProto.FLOAT`` or ``UINT8``), to be filled in order."""
        size_bytes = math.prod(shape) * _ELEMENT_BYTES[data_type]
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._end = start + size_bytes
        proto = onnx.TensorProto(
            name=name, data_type=data_type, dims=list(shape), data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in (("location", self._path.name), ("offset", start), ("length", size_bytes)):
            proto.external_data.add(key=key, value=str(value))
        return Region(self, proto, start, self._end)

    def write_at(self, offset_bytes: int, data: NDArray[np.generic]) -> int:
        """The offset at which the written bytes end."""
        view = memoryview(np.ascontiguousarray(data).data).cast("B")
        end = offset_bytes + len(view)
        with storage_errors(f"writing {self._path}"):
            self._file.seek(offset_bytes)
            while view:
                view = view[self._file.write(view) :]
        return end


class Region:
    """One tensor's place in the file. `proto` names it for the graph."""

    def __init__(self, data: ExternalData, proto: onnx.TensorProto, start: int, end: int) -> None:
        self.proto = proto
        self._data = data
        self._position = start
        self._end = end

    def write(self, rows: NDArray[np.generic]) -> None:
        """Append the next rows. Raises `ValueError` past the end of the tensor."""
        if self._position + rows.nbytes > self._end:
            raise ValueError(f"{self.proto.name}: {rows.nbytes} bytes do not fit its shape")
        self._position = self._data.write_at(self._position, rows)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole small file and flush it to the disk. Raises as `ExternalData` does."""
    with storage_errors(f"writing {path}"), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
