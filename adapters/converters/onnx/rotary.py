"""Computes the tables of cosines and sines that rotate queries and keys by their positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corral.adapters.converters.onnx.decoder import Decoder
from corral.core.errors import InvalidModelFile

__all__ = ("rotary_tables",)

Floats = NDArray[np.float32]

_PIECE_ROWS = 1 << 16


def rotary_tables(decoder: Decoder, positions: int, factors: Floats | None) -> tuple[Floats, Floats]:
    """``(positions, half a head)`` each: angle ``position / scale * base ** (-2i / head size) / factor_i``.

    As llama.cpp computes it (``ggml_rope_ext`` without YaRN); `factors` is its tensor ``rope_freqs.weight``, which is
    how GGUF keeps the scaling of Llama 3.
    """
    half = decoder.head_size // 2
    frequencies = decoder.rope_base ** (-np.arange(half, dtype=np.float64) / half)
    if factors is not None:
        if factors.size != half or not np.all(factors > 0):
            raise InvalidModelFile(f"{decoder.rope_factors} has {factors.size} factors, but must have {half} above 0")
        frequencies = frequencies / factors.ravel()
    cos, sin = np.empty((2, positions, half), dtype=np.float32)
    for start in range(0, positions, _PIECE_ROWS):
        piece = slice(start, min(start + _PIECE_ROWS, positions))
        angles = np.outer(np.arange(piece.start, piece.stop, dtype=np.float64) / decoder.rope_scale, frequencies)
        cos[piece], sin[piece] = np.cos(angles), np.sin(angles)
    return cos, sin
