"""Turns numbers of 16 and 32 bits into each other, rounding to the nearest, as ggml does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("in_type", "to_float32")

_NUMBERS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


def to_float32(type_name: str, numbers: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of the type ``F32``, ``F16``, or ``BF16`` (their bits as uint16) as float32, without rounding."""
    if type_name == "BF16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32, copy=False)


def in_type(type_name: str, numbers: NDArray[np.float32]) -> NDArray[Any]:
    """float32 in the type ``F32``, ``F16``, or ``BF16`` (as bits), rounded to the nearest, ties to even.

    What is too large for F16 becomes infinite.
    """
    if type_name == "BF16":
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        not_numbers = (bits & 0x7FFFFFFF) > 0x7F800000
        return np.where(not_numbers, (bits >> 16) | 64, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return numbers.astype(_NUMBERS[type_name], copy=False)
