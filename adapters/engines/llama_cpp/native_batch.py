"""The input of one llama.cpp call: tokens of several sequences, or vectors of an image, with their positions."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence

import llama_cpp as C
import numpy as np

from corral.adapters.engines.llama_cpp.image_cells import ImageCells

__all__ = ("Batch", "VectorBatch")


class Batch:
    """One `llama_batch` over numpy arrays: tokens of several sequences for one call of decode.

    If they are rows of answers, `full` are the sequences that have no room for a row that is dropped afterwards.
    """

    def __init__(self, capacity: int) -> None:
        self.full: Collection[int] | None = None
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.wanted = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        base = self.sequences.ctypes.data
        self._pointers = (ctypes.POINTER(C.llama_seq_id) * capacity)(
            *(ctypes.cast(base + 4 * i, ctypes.POINTER(C.llama_seq_id)) for i in range(capacity))
        )
        self.native = C.llama_batch(
            0,
            self.tokens.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            None,
            self.positions.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
            self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            ctypes.cast(self._pointers, ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill_chunk(self, tokens: Sequence[int], position: int, sequence: int, *, last: bool) -> None:
        """Fill in consecutive tokens of one sequence, with logits of the last one if `last` is set."""
        count = len(tokens)
        self.tokens[:count] = tokens
        self.positions[:count] = np.arange(position, position + count, dtype=np.int32)
        self.sequences[:count] = sequence
        self.wanted[:count] = 0
        self.wanted[count - 1] = 1 if last else 0
        self.native.n_tokens = count
        self.full = None

    def fill_rows(self, rows: Sequence[tuple[int, int, int]], full: Collection[int] = ()) -> None:
        """Fill in one (token, position, sequence) per row, with logits of every row."""
        for index, (token, position, sequence) in enumerate(rows):
            self.tokens[index] = token
            self.positions[index] = position
            self.sequences[index] = sequence
            self.wanted[index] = 1
        self.native.n_tokens = len(rows)
        self.full = full

    def fill_inputs(self, inputs: Sequence[Sequence[int]], position: int = 0) -> None:
        """Fill in inputs, one sequence each, from `position` on; every token is an output for pooling."""
        at = 0
        for sequence, tokens in enumerate(inputs):
            end = at + len(tokens)
            self.tokens[at:end] = tokens
            self.positions[at:end] = np.arange(position, position + len(tokens), dtype=np.int32)
            self.sequences[at:end] = sequence
            at = end
        self.wanted[:at] = 1
        self.native.n_tokens = at
        self.full = None


class VectorBatch:
    """One `llama_batch` with cells of an image, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._batch = Batch(capacity)
        self.native = self._batch.native
        self.native.token = None
        self._rows = np.zeros((0, 0), np.float32)
        self._positions = np.zeros(0, np.int32)
        self.stream = 0

    def fill(
        self, image: ImageCells, start: int, count: int, first_position: int, sequence: int, *, last: bool
    ) -> None:
        """Fill in `count` cells from the image's cell `start` on. Its first cell has the position `first_position`."""
        end = start + count
        if image.offsets is None or image.moves is None:
            self._positions = np.arange(first_position + start, first_position + end, dtype=np.int32)
        else:
            moved = image.offsets[:, start:end] + first_position * image.moves[:, start:end]
            self._positions = np.ascontiguousarray(moved, np.int32).ravel()
        self._rows = image.vectors[start:end]  # kept until the next call
        self.stream = sequence
        self._batch.sequences[:count] = sequence
        self._batch.wanted[:count] = 0
        self._batch.wanted[count - 1] = 1 if last else 0
        self.native.embd = self._rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self.native.pos = self._positions.ctypes.data_as(ctypes.POINTER(C.llama_pos))
        self.native.n_tokens = count
