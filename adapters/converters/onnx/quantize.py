"""Quantizes rows of weights into the blocks of ONNX Runtime's ``MatMulNBits``.

A block of a row is ``scale * (level - zero point)``. The layout is that of the operator's schema in ONNX Runtime's
``ContribOperators.md``: levels of 4 bits are packed in pairs, the first in the low half of a byte; so are zero points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ("EIGHT_BIT_ZERO", "QuantizedRows", "quantize", "row_blocks", "zero_bytes")

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

EIGHT_BIT_ZERO = 128
"""The zero point that ``MatMulNBits`` assumes for 8 bits where none is given."""

_TINY = np.float32(1e-30)


class QuantizedRows(NamedTuple):
    """`levels` is ``(rows, blocks, bytes)``, `scales` ``(rows, blocks)``, `zeros` ``(rows, bytes)`` or None for 128."""

    levels: Bytes
    scales: Floats
    zeros: Bytes | None


def row_blocks(columns: int, block_size: int) -> int:
    """Blocks of a row; the last is filled up with zeros."""
    return -(-columns // block_size)


def zero_bytes(blocks: int) -> int:
    """Bytes of a row's 4-bit zero points."""
    return -(-blocks // 2)


def quantize(weights: Floats, bits: int, block_size: int) -> QuantizedRows:
    """``(rows, columns)`` in `bits` of 4, with the zero point of least error, or of 8, symmetric."""
    rows, columns = weights.shape
    blocks = row_blocks(columns, block_size)
    padded = np.pad(weights, ((0, 0), (0, blocks * block_size - columns)))
    grouped = padded.reshape(rows * blocks, block_size)
    if bits == 8:
        levels, scales = _eight_bits(grouped)
        return QuantizedRows(levels.reshape(rows, blocks, block_size), scales.reshape(rows, blocks), None)
    levels, scales, zeros = _four_bits(grouped)
    packed = levels[:, 0::2] | levels[:, 1::2] * np.uint8(16)
    return QuantizedRows(
        packed.reshape(rows, blocks, block_size // 2),
        scales.reshape(rows, blocks),
        _packed(zeros.reshape(rows, blocks)),
    )


def _packed(zeros: Bytes) -> Bytes:
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return even[:, 0::2] | even[:, 1::2] * np.uint8(16)


def _eight_bits(groups: Floats) -> tuple[Bytes, Floats]:
    """Symmetric, from -127 to 127. What Q8_0 holds comes out as it was: its greatest level is 127 too."""
    scales = np.abs(groups).max(axis=1) / np.float32(127)
    levels = np.rint(groups / np.maximum(scales, _TINY)[:, None]) + EIGHT_BIT_ZERO
    return levels.astype(np.uint8), scales


def _four_bits(groups: Floats) -> tuple[Bytes, Floats, Bytes]:
    """Every block takes the best of a few zero points around the one that its range suggests."""
    low = np.minimum(groups.min(axis=1), 0)
    high = np.maximum(groups.max(axis=1), 0)
    middle = np.rint(-low / np.maximum((high - low) / 15, _TINY))
    found = []
    for shift in (0, -1, 1):
        zeros = np.clip(middle + np.float32(shift), 0, 15)
        scales = np.maximum(np.divide(high, 15 - zeros, where=zeros < 15, out=np.zeros_like(high)), 0)
        scales = np.maximum(scales, np.divide(-low, zeros, where=zeros > 0, out=np.zeros_like(low)))
        levels, scales, error = _fitted(groups, scales, zeros)
        found.append((levels, scales, zeros, error))
    levels, scales, zeros, least = found[0]
    for other_levels, other_scales, other_zeros, error in found[1:]:
        better = error < least
        levels[better], scales[better] = other_levels[better], other_scales[better]
        zeros[better], least[better] = other_zeros[better], error[better]
    return levels, scales, zeros.astype(np.uint8)


def _fitted(groups: Floats, scales: Floats, zeros: Floats) -> tuple[Bytes, Floats, Floats]:
    """Levels for a scale, then the scale of least squares for those levels, and the squared error left."""
    centred = np.clip(np.rint(groups / np.maximum(scales, _TINY)[:, None]), -zeros[:, None], 15 - zeros[:, None])
    squares = np.einsum("ij,ij->i", centred, centred)
    scales = np.einsum("ij,ij->i", centred, groups) / np.maximum(squares, 1)
    remainder = groups - centred * scales[:, None]
    levels = (centred + zeros[:, None]).astype(np.uint8)
    return levels, scales, np.einsum("ij,ij->i", remainder, remainder)
