"""Copies tensors from a GGUF file into ONNX's external data, in 4 or 8 bits where possible, piece by piece."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from corral.adapters.converters.onnx.external_data import ExternalData
from corral.adapters.converters.onnx.quantized_blocks import (
    BLOCK,
    QuantizedRows,
    eight_bits,
    four_bits,
    nearest_groups,
    row_blocks,
)
from corral.adapters.formats.gguf.dequantize import dequantize, four_bit_groups
from corral.adapters.formats.gguf.tables import FOUR_BIT_TYPES
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("Matrix", "Source", "WeightWriter")

Floats = NDArray[np.float32]

ScalarT = TypeVar("ScalarT", bound=np.generic)

_CENTRED = "Q4_0"
"""The 4-bit type whose minimum is a whole number of steps: its zero point is 8, without a remainder."""

_PIECE_ELEMENTS = 1024 * 1024


class Source(NamedTuple):
    """A GGUF tensor. `head_size` above 0: its rows are rotated pairs, to be rearranged as halves of each head."""

    name: str
    head_size: int = 0


class Matrix(NamedTuple):
    """A quantized matrix in the graph: names of initializers, and the attributes of ``MatMulNBits``.

    The last `sums` columns are multiplied by the sums of the activations' blocks.
    """

    levels: str
    scales: str
    zeros: str
    bits: int
    rows: int
    columns: int
    sums: int


class WeightWriter:
    """Writes matrices and vectors by name, and keeps the graph's `initializers`.

    `least_bits` is the smallest width of a matrix so far. `on_progress` gets the share of the file's elements that is
    done, 0 to 1. Raises as `GgufTensors` and `ExternalData`.
    """

    def __init__(self, tensors: GgufTensors, data: ExternalData, on_progress: Callable[[float], None]) -> None:
        self.initializers: list[onnx.TensorProto] = []
        self.least_bits = 8
        self._tensors = tensors
        self._data = data
        self._on_progress = on_progress
        self._total = max(1, sum(math.prod(tensors.shape(name)) for name in tensors.names))
        self._done = 0
        self._used: set[str] = set()
        self._threads = max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))

    def matrix(self, name: str, sources: Sequence[Source], columns: int, bits: int | None) -> Matrix:
        """The rows of all sources, one below the other. `bits` None: 4 if the sources have 4 bits, else 8.

        Rows that are not a whole number of blocks always have 8.
        """
        rows = sum(self._rows(source, columns) for source in sources)
        types = {self._tensors.type(source.name) for source in sources}
        bits = 8 if columns % BLOCK else bits or (4 if types <= FOUR_BIT_TYPES else 8)
        self.least_bits = min(bits, self.least_bits)
        sums = row_blocks(columns) if bits == 4 and types != {_CENTRED} else 0
        blocks = row_blocks(columns) + row_blocks(sums)
        levels = self._data.tensor(f"{name}.levels", TensorProto.UINT8, (rows, blocks, BLOCK * bits // 8))
        scales = self._data.tensor(f"{name}.scales", TensorProto.FLOAT, (rows, blocks))
        zeros = self._data.tensor(f"{name}.zeros", TensorProto.UINT8, (rows, -(-blocks // 2))) if bits == 4 else None
        for piece in self._quantized(sources, columns, bits, sums > 0):
            levels.write(piece.levels)
            scales.write(piece.scales)
            if zeros is not None and piece.zeros is not None:
                zeros.write(piece.zeros)
        self.initializers += [region.proto for region in (levels, scales, zeros) if region is not None]
        return Matrix(
            levels=levels.proto.name,
            scales=scales.proto.name,
            zeros=zeros.proto.name if zeros is not None else "",
            bits=bits,
            rows=rows,
            columns=columns,
            sums=sums,
        )

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
        """A small tensor that is computed, not read."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def table(self, name: str, values: Floats) -> str:
        """A large tensor that is computed, not read. It is kept outside of the graph, whose size is limited."""
        region = self._data.tensor(name, TensorProto.FLOAT, values.shape)
        region.write(values)
        self.initializers.append(region.proto)
        return name

    def columns(self, name: str) -> int:
        """The length of the rows of a tensor."""
        return self._tensors.shape(name)[-1]

    def numbers(self, name: str) -> Floats:
        """The values of a tensor for a computation; the tensor counts as used."""
        values = self._tensors.dequantized(name)
        self._count(name, values.size)
        return values

    def check_all_used(self) -> None:
        """Raises `Unsupported` if the file has tensors that the graph does not use: the result would be wrong."""
        left = [name for name in self._tensors.names if name not in self._used]
        if left:
            shown = ", ".join(left[:5]) + (" …" if len(left) > 5 else "")
            raise Unsupported(f"the model has {len(left)} tensors that this converter does not support: {shown}")

    def _rows(self, source: Source, columns: int) -> int:
        shape = self._tensors.shape(source.name)
        if len(shape) != 2 or shape[1] != columns or (source.head_size and shape[0] % source.head_size):
            raise InvalidModelFile(f"the tensor {source.name!r} is {shape}, but its rows must have {columns} elements")
        return shape[0]

    def _quantized(
        self, sources: Sequence[Source], columns: int, bits: int, remainders: bool
    ) -> Iterator[QuantizedRows]:
        """Pieces in order. NumPy releases the GIL, so a few threads can work ahead of the one that writes."""
        with ThreadPoolExecutor(self._threads) as threads:
            ahead: deque[Future[QuantizedRows]] = deque()
            for source in sources:
                type_name = self._tensors.type(source.name)
                for blocks in self._pieces(source, columns):
                    if len(ahead) > self._threads:
                        yield ahead.popleft().result()
                    ahead.append(threads.submit(_converted, type_name, blocks, source.head_size, bits, remainders))
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


def _converted(type_name: str, blocks: NDArray[np.uint8], head_size: int, bits: int, remainders: bool) -> QuantizedRows:
    blocks = _halves(blocks, head_size)
    rows, flat = len(blocks), blocks.reshape(-1, blocks.shape[-1])
    if bits == 4 and (groups := four_bit_groups(type_name, flat)) is not None:
        return four_bits(groups, rows, remainders=remainders)
    values = dequantize(type_name, flat).reshape(rows, -1)
    return eight_bits(values) if bits == 8 else four_bits(nearest_groups(values), rows, remainders=remainders)


def _halves(rows: NDArray[ScalarT], head_size: int) -> NDArray[ScalarT]:
    """Rows of rotated pairs (0 and 1, 2 and 3, …) in the order in which the first half is paired with the second."""
    if not head_size:
        return rows
    pairs = rows.reshape(-1, head_size // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
