"""Quantizes rows of weights into the blocks of ONNX Runtime's ``MatMulNBits``.

A block of 32 is ``scale * (level - zero point)``. The layout is that of the operator's schema in ONNX Runtime's
``ContribOperators.md``: levels of 4 bits are packed in pairs, the first in the low half of a byte; so are zero points.

A zero point of 4 bits is a whole number, but the minimum of a GGUF block is not: rounding it would cost as much
accuracy as the quantization itself. The rounding error of a block, its remainder, is the same for all weights of the
block, so it has to be multiplied by the sum of the 32 activations. The remainders are therefore appended to the weights
as more columns, in separate blocks, and the graph appends those sums to the activations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.gguf.dequantize import Groups

__all__ = ("BLOCK", "EIGHT_BIT_ZERO", "QuantizedRows", "eight_bits", "four_bits", "nearest_groups", "row_blocks")

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK = 32
"""Weights that share a scale: as in GGUF, so that its 4-bit blocks can be kept as they are."""

EIGHT_BIT_ZERO = 128
"""The zero point that ``MatMulNBits`` assumes for 8 bits if none is given."""

_REMAINDER_ZERO = 8
_TINY = np.float32(1e-30)


class QuantizedRows(NamedTuple):
    """`levels` is ``(rows, blocks, bytes)``, `scales` ``(rows, blocks)``, `zeros` ``(rows, bytes)`` or None for 128."""

    levels: Bytes
    scales: Floats
    zeros: Bytes | None


def row_blocks(columns: int) -> int:
    """The blocks of a row; the last one is padded with zeros."""
    return -(-columns // BLOCK)


def eight_bits(weights: Floats) -> QuantizedRows:
    """``(rows, columns)`` symmetric, from -127 to 127. Weights from Q8_0, whose range is the same, do not change."""
    grouped = _filled(weights)
    scales = np.abs(grouped).max(axis=2) / np.float32(127)
    levels = np.rint(grouped / np.maximum(scales, _TINY)[:, :, None]) + EIGHT_BIT_ZERO
    return QuantizedRows(levels.astype(np.uint8), scales, None)


def four_bits(groups: Groups, rows: int, *, remainders: bool) -> QuantizedRows:
    """Groups of whole rows. With `remainders`, each row is followed by those of its blocks; else they are dropped."""
    scales, minima = groups.steps.reshape(rows, -1), groups.minima.reshape(rows, -1)
    zeros = np.clip(np.rint(-minima / np.where(scales == 0, 1, scales)), 0, 15)
    levels = groups.levels.reshape(rows, -1, BLOCK)
    if remainders:
        more_levels, more_scales = _remainders(minima + scales * zeros)
        levels = np.concatenate((levels, more_levels), axis=1)
        scales = np.concatenate((scales, more_scales), axis=1)
        zeros = np.concatenate((zeros, np.full_like(more_scales, _REMAINDER_ZERO)), axis=1)
    whole_bytes = np.pad(zeros.astype(np.uint8), ((0, 0), (0, zeros.shape[1] % 2)))
    return QuantizedRows(_packed(levels), scales, _packed(whole_bytes))


def nearest_groups(weights: Floats) -> Groups:
    """``(rows, columns)`` rounded to 4 bits between the least and the greatest of each block."""
    grouped = _filled(weights).reshape(-1, BLOCK)
    minima = grouped.min(axis=1)
    steps = (grouped.max(axis=1) - minima) / np.float32(15)
    levels = np.rint((grouped - minima[:, None]) / np.maximum(steps, _TINY)[:, None])
    return Groups(levels.astype(np.uint8), steps, minima)


def _remainders(values: Floats) -> tuple[Bytes, Floats]:
    """Symmetric, in 4 bits: a remainder is at most half a step, and a seventh of that is accurate enough."""
    grouped = _filled(values)
    scales = np.abs(grouped).max(axis=2) / np.float32(7)
    levels = np.rint(grouped / np.maximum(scales, _TINY)[:, :, None]) + _REMAINDER_ZERO
    return levels.astype(np.uint8), scales


def _filled(values: Floats) -> Floats:
    """The rows, divided into blocks."""
    rows, columns = values.shape
    blocks = row_blocks(columns)
    return np.pad(values, ((0, 0), (0, blocks * BLOCK - columns))).reshape(rows, blocks, BLOCK)


def _packed(halves: Bytes) -> Bytes:
    return halves[..., 0::2] | halves[..., 1::2] * np.uint8(16)
