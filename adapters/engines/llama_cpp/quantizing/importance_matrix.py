"""Reads importance matrices, as llama-imatrix writes them: GGUF, or the older binary format.

Source: tools/imatrix and tools/quantize of llama.cpp. A GGUF has, for each tensor of weights, the sums of squared
activations by column (``NAME.in_sum2``) and how many there were (``NAME.counts``), one row for each expert. The older
format has a count of entries, and for each a name, a number of calls, and that many sums.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from pathlib import Path

import llama_cpp as C
import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.system.files import storage_errors
from corral.core.errors import InvalidModelFile, NotFound

__all__ = ("NativeMatrix", "read_importance_matrix")

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MOST_BYTES = 1 << 30
_MOST_ENTRIES, _LONGEST_NAME = 100_000, 1024

Matrix = Mapping[str, NDArray[np.float32]]


def read_importance_matrix(path: Path) -> Matrix:
    """The mean squared activation of each column, by tensor. Raises `NotFound`, `InvalidModelFile`, `StorageError`."""
    if not path.is_file():
        raise NotFound(f"there is no importance matrix {path}")
    with storage_errors(f"reading {path}"), path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    matrix = _from_gguf(path) if is_gguf else _from_binary(path)
    if not matrix:
        raise InvalidModelFile(f"{path} is no importance matrix: it has no entries")
    for name, values in matrix.items():
        if not np.isfinite(values).all():
            raise InvalidModelFile(f"{path}: the importance matrix of {name!r} has values that are no numbers")
    return matrix


def _from_gguf(path: Path) -> Matrix:
    found = {}
    with GgufTensors(path) as tensors:
        names = set(tensors.names)
        for name in sorted(names):
            if not name.endswith(_SUMS):
                continue
            counts_name = name.removesuffix(_SUMS) + _COUNTS
            if counts_name not in names:
                raise InvalidModelFile(f"{path} is no importance matrix: it has {name!r} without {counts_name!r}")
            sums = tensors.dequantized(name)
            counts = tensors.dequantized(counts_name).reshape(-1, 1)
            rows = sums.reshape(len(counts), -1) if len(counts) and sums.size % len(counts) == 0 else None
            if rows is None:
                raise InvalidModelFile(f"{path}: {name!r} and {counts_name!r} do not fit each other")
            means = np.where(counts > 0, rows / np.maximum(counts, 1), np.float32(1.0))
            found[name.removesuffix(_SUMS)] = np.ascontiguousarray(means.ravel(), np.float32)
    return found


def _from_binary(path: Path) -> Matrix:
    with storage_errors(f"reading {path}"):
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidModelFile(f"{path} is no importance matrix: it is larger than any")
        data = path.read_bytes()
    found, at = {}, 4
    try:
        (entries,) = struct.unpack_from("<i", data)
        if not 0 < entries <= _MOST_ENTRIES:
            raise ValueError
        for _ in range(entries):
            (length,) = struct.unpack_from("<i", data, at)
            if not 0 < length <= _LONGEST_NAME:
                raise ValueError
            name = data[at + 4 : at + 4 + length].decode()
            calls, count = struct.unpack_from("<ii", data, at + 4 + length)
            at += 12 + length
            sums = np.frombuffer(data, "<f4", count, at)
            found[name] = (sums / max(calls, 1)).astype(np.float32)
            at += 4 * count
    except (ValueError, struct.error) as error:
        raise InvalidModelFile(f"{path} is no importance matrix of llama-imatrix") from error
    return found


class NativeMatrix:
    """The matrix as llama.cpp takes it. Must outlive the call that uses `pointer`."""

    def __init__(self, matrix: Matrix) -> None:
        self._kept = [(name.encode(), np.ascontiguousarray(values, np.float32)) for name, values in matrix.items()]
        self._entries = (C.llama_model_imatrix_data * (len(self._kept) + 1))()  # the last has no name
        for entry, (name, values) in zip(self._entries, self._kept, strict=False):
            entry.name = name
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = len(values)
        self.pointer = ctypes.cast(self._entries, ctypes.POINTER(C.llama_model_imatrix_data))
