"""The input of one llama.cpp call: tokens of several sequences, with their positions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp as C
import numpy as np

__all__ = ("Batch",)


class Batch:
    """One `llama_batch` over numpy arrays: tokens of several sequences for one call of decode."""

    def __init__(self, capacity: int) -> None:
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

    def fill_rows(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Fill in one (token, position, sequence) per row, with logits of every row."""
        for index, (token, position, sequence) in enumerate(rows):
            self.tokens[index] = token
            self.positions[index] = position
            self.sequences[index] = sequence
            self.wanted[index] = 1
        self.native.n_tokens = len(rows)

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
