"""What transformers are made of, in float64, as the papers define it: norms, rotary positions, attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = (
    "ACTIVATIONS",
    "Array",
    "Tensors",
    "attention",
    "capped",
    "heads_of",
    "inverse_frequencies",
    "layer_norm",
    "rms_norm",
    "rotated",
    "visible",
)

Array = npt.NDArray[np.float64]
Tensors = Mapping[str, npt.NDArray[Any]]


def _gelu(x: Array) -> Array:
    found: Array = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return found


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; off by 1.5e-7 at most."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    found: Array = np.sign(x) * (1 - series * np.exp(-(x**2)))
    return found


def _gelu_tanh(x: Array) -> Array:
    found: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return found


def _gelu_table(x: Array) -> Array:
    """As ggml has it: from a table of half floats, which makes an error of 0.0005 in each."""
    halves = x.astype(np.float16).astype(np.float64)
    return np.where(x <= -10, 0, np.where(x >= 10, x, _gelu_tanh(halves).astype(np.float16).astype(np.float64)))


def _silu(x: Array) -> Array:
    found: Array = x / (1 + np.exp(-x))
    return found


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_table": _gelu_table,
    "silu": _silu,
}
"""By the names of ``hidden_act`` in ``config.json``, except for ``gelu_table``."""


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    found: Array = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight
    return found


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    found: Array = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps) * weight + bias
    return found


def inverse_frequencies(width: int, base: float) -> Array:
    """One for each pair of dimensions of RoPE (RoFormer, section 3.2)."""
    found: Array = base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    return found


def rotated(x: Array, frequencies: Array, scale: float = 1.0) -> Array:
    """Rotary positions of ``(head, position, dimension)``: dimension `i` forms a pair with `i + half`, as in Hugging
    Face's weights. Dimensions beyond those of the frequencies stay as they are."""
    half = len(frequencies)
    angles = np.arange(x.shape[1], dtype=np.float64)[:, None] * frequencies
    cos, sin = np.cos(angles) * scale, np.sin(angles) * scale
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def heads_of(x: Array, count: int) -> Array:
    """From ``(position, heads * dimension)`` to ``(head, position, dimension)``."""
    return x.reshape(len(x), count, -1).transpose(1, 0, 2)


def visible(length: int, window: int | None = None) -> npt.NDArray[np.bool_]:
    """Which position (column) is seen from which (row): those before it, and of these the last `window`."""
    row, column = np.indices((length, length))
    return (column <= row) & (row - column < (window or length))


def capped(x: Array, cap: float | None) -> Array:
    """Softly held between `-cap` and `cap`; None: as it is."""
    return x if cap is None else cap * np.tanh(x / cap)


def attention(
    q: Array, k: Array, v: Array, seen: npt.NDArray[np.bool_], scale: float, cap: float | None = None
) -> Array:
    """The output of all heads, side by side. A head of keys serves several of queries that follow each other."""
    repeat = len(q) // len(k)
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    scores = np.where(seen, capped(q @ k.transpose(0, 2, 1) * scale, cap), -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = powers / powers.sum(axis=-1, keepdims=True) @ v
    joined: Array = mixed.transpose(1, 0, 2).reshape(mixed.shape[1], -1)
    return joined
