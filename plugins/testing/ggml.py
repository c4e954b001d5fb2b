"""Writes small legacy GGML files with random weights, so that tests need no real models."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence

from corral.adapters.formats.ggml.layouts import LAYOUTS
from corral.core.errors import InvalidRequest

__all__ = ("FAMILIES", "ggml_bytes", "small_vocabulary")

_WIDTH, _HEADS, _LAYERS, _CONTEXT, _ROTATED = 32, 4, 2, 64, 8
_FAMILY_TOKENS = {"starcoder": ["<fim_prefix>", "<|end|>"], "dolly": ["### End", "### Response:"]}
_LAYOUTS = {layout.name: layout for layout in LAYOUTS} | {layout.twin: layout for layout in LAYOUTS if layout.twin}

FAMILIES: tuple[str, ...] = tuple(_LAYOUTS)
"""The families for which a file can be written."""


def small_vocabulary(family: str) -> list[bytes]:
    """A vocabulary of all bytes, some words and the family's control tokens."""
    words = ["<|endoftext|>", " the", " a", "Once", " upon", " time", " horse", *_FAMILY_TOKENS.get(family, ())]
    if family == "replit":
        spelt = ["<unk>", *(chr(code) for code in range(0x21, 0x7F)), "\u2581", *words]
        return [text.replace(" ", "\u2581").encode() for text in spelt]
    return [*(bytes([byte]) for byte in range(256)), *(word.encode() for word in words)]


def ggml_bytes(family: str, *, tokens: Sequence[bytes] | None = None, seed: int = 1) -> bytes:
    """A whole file of one family: a model of two layers with weights drawn by `seed`, all of them float32."""
    layout = _LAYOUTS.get(family)
    if layout is None:
        raise InvalidRequest(f"no GGML family {family!r}", f"supported: {', '.join(FAMILIES)}")
    vocabulary = small_vocabulary(family) if tokens is None else list(tokens)
    numbers: Mapping[str, int | float] = {
        "vocabulary": len(vocabulary),
        "context": _CONTEXT,
        "width": _WIDTH,
        "heads": _HEADS,
        "layers": _LAYERS,
        "rotated": _ROTATED,
        "parallel": 1,
        "alibi": 8.0,
        "clip": 0.0,
        "type": 0,
    }
    draw = random.Random(seed)
    parts = [b"lmgg"]
    parts += [struct.pack("<f" if name in layout.floats else "<i", numbers[name]) for name in layout.fields]
    if layout.vocabulary == "counted":
        parts.append(struct.pack("<i", len(vocabulary)))
    for place, token in enumerate(vocabulary):
        spelt = token.decode("latin-1").encode() if layout.vocabulary == "latin" else token
        parts.append(struct.pack("<I", len(spelt)) + spelt)
        if layout.vocabulary == "scored":
            parts.append(struct.pack("<f", len(token) - 0.001 * place))
    for name, shape in layout.shapes(numbers).items():
        if name not in layout.optional:
            # Gains near 1 and small weights, as in a trained model, so that nothing overflows.
            middle = 1.0 if len(shape) == 1 and not name.endswith(("b", "bias")) else 0.0
            values = [draw.gauss(middle, 0.3) for _ in range(math.prod(shape))]
            parts.append(struct.pack(f"<III{len(shape)}I", len(shape), len(name), 0, *shape) + name.encode())
            parts.append(struct.pack(f"<{len(values)}f", *values))
    return b"".join(parts)
