"""Turns blocks of quantized weights into float32, as ggml's own reference code does.

The block layouts are ggml's: the structs ``block_q4_0`` to ``block_q6_K`` of ``ggml-common.h``, and the functions
``dequantize_row_*`` of ``ggml-quants.c``. Results are identical, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.gguf.tables import DEQUANTIZED_TYPES
from corral.core.errors import Unsupported

__all__ = ("Groups", "dequantize", "four_bit_groups")

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Groups(NamedTuple):
    """Groups of 32 weights: ``step * level + minimum``. `levels` is ``(n, 32)``, the others ``(n,)``."""

    levels: Bytes
    steps: Floats
    minima: Floats


def dequantize(type_name: str, blocks: Bytes) -> Floats:
    """``(n, bytes of a block)`` becomes ``(n, elements of a block)``. Raises `Unsupported` for other types."""
    groups = four_bit_groups(type_name, blocks)
    if groups is not None:
        values = groups.steps[:, None] * groups.levels.astype(np.float32) + groups.minima[:, None]
        return values.reshape(len(blocks), -1)
    function = _FUNCTIONS.get(type_name)
    if function is None:
        raise Unsupported(
            f"tensors of the type {type_name} cannot be dequantized; "
            f"supported types: {', '.join(sorted(DEQUANTIZED_TYPES))}",
            "fetch the model in another quantization, such as Q4_K_M or Q8_0",
        )
    return function(np.ascontiguousarray(blocks))


def four_bit_groups(type_name: str, blocks: Bytes) -> Groups | None:
    """The blocks of a 4-bit type as levels and steps, without rounding; None for any other type."""
    function = _FOUR_BITS.get(type_name)
    return None if function is None else function(np.ascontiguousarray(blocks))


def _f16(blocks: Bytes, offset: int) -> Floats:
    """The float16 of every block at a byte offset, as a column."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16).astype(np.float32)


def _nibbles(blocks: Bytes) -> Bytes:
    """All low halves of the bytes, then all high halves."""
    return np.concatenate((blocks & 0x0F, blocks >> 4), axis=1)


def _fifth_bits(blocks: Bytes, offset: int) -> Bytes:
    """32 bits stored as a little-endian word, each as 16 or 0."""
    return np.unpackbits(blocks[:, offset : offset + 4], axis=1, bitorder="little") * np.uint8(16)


def _f32(blocks: Bytes) -> Floats:
    return blocks.view(np.float32)


def _half(blocks: Bytes) -> Floats:
    return blocks.view(np.float16).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    """The upper half of a float32."""
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Groups:
    """``d * (q - 8)``: d as float16, 16 bytes of 4-bit q."""
    steps = _f16(blocks, 0)
    return Groups(_nibbles(blocks[:, 2:]), steps.ravel(), -8 * steps.ravel())


def _q4_1(blocks: Bytes) -> Groups:
    """``d * q + m``: d and m as float16, 16 bytes of 4-bit q."""
    return Groups(_nibbles(blocks[:, 4:]), _f16(blocks, 0).ravel(), _f16(blocks, 2).ravel())


def _q4_k(blocks: Bytes) -> Groups:
    """Eight groups of 32: ``(d * s) * q - dmin * m``; s and m have six bits, q four."""
    steps, least = _steps_and_minima(blocks)
    return Groups(_nibble_groups(blocks[:, 16:]).reshape(-1, 32), steps.ravel(), -least.ravel())


def _q5_0(blocks: Bytes) -> Floats:
    """``d * (q - 16)``: d as float16, the fifth bits of 32 q, 16 bytes of their lower four."""
    levels = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _f16(blocks, 0) * (levels.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    """``d * q + m``: d and m as float16, the fifth bits of 32 q, 16 bytes of their lower four."""
    levels = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _f16(blocks, 0) * levels.astype(np.float32) + _f16(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    """``d * q``: d as float16, 32 signed bytes."""
    return _f16(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q2_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16: ``(d * s) * q - dmin * m``; s and m are the halves of a byte, q has two bits."""
    scales = blocks[:, :16]
    steps = _f16(blocks, 80) * (scales & 0x0F)
    least = _f16(blocks, 82) * (scales >> 4)
    levels = _pairs_of_bits(blocks[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    return _in_groups(steps, levels, least)


def _q3_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16: ``(d * (s - 32)) * (q - 4)``; s has six bits, q two and a third in the mask."""
    third = _bit_planes(blocks[:, :32]) * np.uint8(4)
    levels = (_pairs_of_bits(blocks[:, 32:96]) | third).reshape(-1, 16, 16).astype(np.float32) - 4
    low, middle, high = blocks[:, 96:100], blocks[:, 100:104], blocks[:, 104:108]
    scales = np.concatenate(
        (
            low & 0x0F | (high & 3) << 4,
            middle & 0x0F | (high >> 2 & 3) << 4,
            low >> 4 | (high >> 4 & 3) << 4,
            middle >> 4 | (high >> 6) << 4,
        ),
        axis=1,
    )
    steps = _f16(blocks, 108) * (scales.astype(np.float32) - 32)
    return _in_groups(steps, levels)


def _q5_k(blocks: Bytes) -> Floats:
    """Eight groups of 32: ``(d * s) * q - dmin * m``; s and m have six bits, q four and a fifth in the mask."""
    fifth = _bit_planes(blocks[:, 16:48]) * np.uint8(16)
    steps, least = _steps_and_minima(blocks)
    levels = (_nibble_groups(blocks[:, 48:]) | fifth).reshape(-1, 8, 32).astype(np.float32)
    return _in_groups(steps, levels, least)


def _q6_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16: ``(d * s) * (q - 32)``; s is a signed byte, q has four bits and two more elsewhere."""
    low = blocks[:, :128].reshape(-1, 2, 64)
    lower = np.concatenate((low & 0x0F, low >> 4), axis=2).reshape(-1, 256)
    upper = _pairs_of_bits(blocks[:, 128:192]) * np.uint8(16)
    levels = (lower | upper).reshape(-1, 16, 16).astype(np.float32) - 32
    steps = _f16(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _in_groups(steps, levels)


def _in_groups(steps: Floats, levels: Floats, least: Floats | None = None) -> Floats:
    """``steps * levels - least``: the levels of a block are in groups, one step and one minimum for each."""
    scaled = steps[:, :, None] * levels
    values = scaled if least is None else scaled - least[:, :, None]
    return values.reshape(len(levels), 256)


def _pairs_of_bits(blocks: Bytes) -> Bytes:
    """Two-bit values: each 32 bytes hold 128, the lowest bits of all bytes first."""
    groups = blocks.reshape(len(blocks), -1, 1, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8).reshape(4, 1)
    values: Bytes = groups >> shifts & np.uint8(3)
    return values.reshape(len(blocks), -1)


def _bit_planes(blocks: Bytes) -> Bytes:
    """32 bytes hold 256 bits: the lowest bit of all bytes first."""
    shifts = np.arange(8, dtype=np.uint8).reshape(8, 1)
    bits: Bytes = blocks[:, None, :] >> shifts & np.uint8(1)
    return bits.reshape(len(blocks), 256)


def _nibble_groups(blocks: Bytes) -> Bytes:
    """Four-bit values: each 32 bytes hold 64, the low halves first."""
    groups = blocks.reshape(len(blocks), 4, 32)
    return np.concatenate((groups & 0x0F, groups >> 4), axis=2).reshape(len(blocks), 256)


def _steps_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Of Q4_K and Q5_K: d, dmin, and twelve bytes with eight 6-bit steps and as many minima."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate((first & 63, third & 0x0F | (first >> 6) << 4), axis=1)
    minima = np.concatenate((second & 63, third >> 4 | (second >> 6) << 4), axis=1)
    return _f16(blocks, 0) * scales, _f16(blocks, 2) * minima


_FOUR_BITS: dict[str, Callable[[Bytes], Groups]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}

_FUNCTIONS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _f32,
    "F16": _half,
    "BF16": _bf16,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
