"""Carries tensors from a GGUF file into ONNX's external data, quantized anew, a piece at a time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from corral.adapters.converters.onnx.external_data import ExternalData
from corral.adapters.converters.onnx.quantize import QuantizedRows, quantize, row_blocks, zero_bytes
from corral.adapters.formats.gguf.dequantize import dequantize
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("Matrix", "Source", "WeightWriter")

Floats = NDArray[np.float32]

_PIECE_ELEMENTS = 1024 * 1024


class Source(NamedTuple):
    """A GGUF tensor. `head_size` above 0: its rows are pairs to be rotated, wanted as two halves of each such head."""

    name: str
    head_size: int = 0


class Matrix(NamedTuple):
    """A quantized matrix in the graph: initializers' names, and what ``MatMulNBits`` wants to know."""

    levels: str
    scales: str
    zeros: str
    bits: int
    rows: int
    columns: int


class WeightWriter:
    """Writes matrices and vectors by name, and keeps the graph's `initializers`.

    `on_progress` gets the share done of all of the file's elements, 0 to 1. Raises as `GgufTensors` and `ExternalData`.
    """

    def __init__(
        self, tensors: GgufTensors, data: ExternalData, block_size: int, on_progress: Callable[[float], None]
    ) -> None:
        self.initializers: list[onnx.TensorProto] = []
        self._tensors = tensors
        self._data = data
        self._block_size = block_size
        self._on_progress = on_progress
        self._total = max(1, sum(math.prod(tensors.shape(name)) for name in tensors.names))
        self._done = 0
        self._used: set[str] = set()
        self._threads = max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))

    def matrix(self, name: str, sources: Sequence[Source], columns: int, bits: int) -> Matrix:
        """The rows of all sources, one below the other, in `bits`."""
        rows = sum(self._rows(source, columns) for source in sources)
        blocks = row_blocks(columns, self._block_size)
        levels = self._data.tensor(f"{name}.levels", TensorProto.UINT8, (rows, blocks, self._block_size * bits // 8))
        scales = self._data.tensor(f"{name}.scales", TensorProto.FLOAT, (rows, blocks))
        zeros = self._data.tensor(f"{name}.zeros", TensorProto.UINT8, (rows, zero_bytes(blocks))) if bits == 4 else None
        for piece in self._quantized(sources, columns, bits):
            levels.write(piece.levels)
            scales.write(piece.scales)
            if zeros is not None and piece.zeros is not None:
                zeros.write(piece.zeros)
        written = [region.proto for region in (levels, scales, zeros) if region is not None]
        self.initializers += written
        return Matrix(levels.proto.name, scales.proto.name, zeros.proto.name if zeros else "", bits, rows, columns)

    def vector(self, name: str, sources: Sequence[Source], length: int) -> str:
        """The float32 vectors of all sources in a row, within the graph; `length` is what they must have together."""
        parts = []
        for source in sources:
            values = self._tensors.dequantized(source.name).reshape(-1, 1)
            self._count(source.name, values.size)
            parts.append(_halves(values, source.head_size).ravel())
        joined = np.concatenate(parts)
        if joined.size != length:
            raise InvalidModelFile(f"{' and '.join(s.name for s in sources)}: {joined.size} numbers, not {length}")
        self.constant(name, joined)
        return name

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """A small tensor that is computed and not read."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def table(self, name: str, values: Floats) -> str:
        """A large tensor that is computed and not read: outside the graph, whose size has a limit."""
        region = self._data.tensor(name, TensorProto.FLOAT, values.shape)
        region.write(values)
        self.initializers.append(region.proto)
        return name

    def columns(self, name: str) -> int:
        """How long the rows of a tensor are."""
        return self._tensors.shape(name)[-1]

    def numbers(self, name: str) -> Floats:
        """A tensor's values for a computation, counted as used."""
        values = self._tensors.dequantized(name)
        self._count(name, values.size)
        return values

    def check_all_used(self) -> None:
        """Raises `Unsupported` where the file has tensors that no part of the graph took: the result would be wrong."""
        left = [name for name in self._tensors.names if name not in self._used]
        if left:
            shown = ", ".join(left[:5]) + (" …" if len(left) > 5 else "")
            raise Unsupported(f"the model has {len(left)} tensors that this converter does not know: {shown}")

    def _rows(self, source: Source, columns: int) -> int:
        shape = self._tensors.shape(source.name)
        if len(shape) != 2 or shape[1] != columns or (source.head_size and shape[0] % source.head_size):
            raise InvalidModelFile(f"the tensor {source.name!r} is {shape}, rows of {columns} are expected")
        return shape[0]

    def _quantized(self, sources: Sequence[Source], columns: int, bits: int) -> Iterator[QuantizedRows]:
        """Pieces in order; NumPy lets go of the GIL, so that a few threads work ahead of the one that writes."""
        with ThreadPoolExecutor(self._threads) as threads:
            ahead: deque[Future[QuantizedRows]] = deque()
            for source in sources:
                type_name = self._tensors.type(source.name)
                for blocks in self._pieces(source, columns):
                    if len(ahead) > self._threads:
                        yield ahead.popleft().result()
                    ahead.append(
                        threads.submit(_converted, type_name, blocks, source.head_size, bits, self._block_size)
                    )
            while ahead:
                yield ahead.popleft().result()

    def _pieces(self, source: Source, columns: int) -> Iterator[NDArray[np.uint8]]:
        rows = self._rows(source, columns)
        heads = source.head_size or 1
        step = max(1, _PIECE_ELEMENTS // (columns * heads)) * heads
        for start in range(0, rows, step):
            blocks = self._tensors.blocks(source.name, start, start + step)
            yield blocks
            self._count(source.name, len(blocks) * columns)

    def _count(self, name: str, elements: int) -> None:
        self._used.add(name)
        self._done += elements
        self._on_progress(min(1.0, self._done / self._total))


def _converted(type_name: str, blocks: NDArray[np.uint8], head_size: int, bits: int, block_size: int) -> QuantizedRows:
    values = dequantize(type_name, blocks.reshape(-1, blocks.shape[-1])).reshape(len(blocks), -1)
    return quantize(_halves(values, head_size), bits, block_size)


def _halves(rows: Floats, head_size: int) -> Floats:
    """Rows of rotated pairs (0 and 1, 2 and 3, …) in the order in which the first half is paired with the second."""
    if not head_size:
        return rows
    pairs = rows.reshape(-1, head_size // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
