"""The structure of a decoder of the llama family, read from a GGUF header."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corral.adapters.converters.onnx.spec import OnnxParameters
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.values import Value

__all__ = ("LONGEST_CONTEXT", "Decoder", "context_length", "read_decoder")

LONGEST_CONTEXT = 1 << 20
"""No model of these architectures was trained for more, and the rotary tables of one that claims so would fill the
disk.
"""


class Decoder(Value, frozen=True, kw_only=True):
    """Lengths are in elements. `interleaved`: the rows of Q and K are in the order of rotated pairs, as GGUF stores
    those of llama; otherwise, the first half of a head is rotated with the second.

    `tied`: the token table is also the output. `biases`: Q, K and V have one. `head_norms`: each head of Q and K is
    normalised. `rope_scale` divides positions, `rope_factors` names the tensor that divides frequencies.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context_length: int
    epsilon: float
    rope_base: float
    rope_scale: float
    rope_factors: str | None
    interleaved: bool
    tied: bool
    biases: bool
    head_norms: bool


def read_decoder(tensors: GgufTensors) -> Decoder:
    """Raises `InvalidModelFile` for a missing or impossible number, `Unsupported` for other graphs."""
    pairs = tensors.pairs
    architecture = str(pairs.get("general.architecture"))
    header = _Numbers(pairs, architecture)
    hidden, heads = header.count("embedding_length"), header.count("attention.head_count")
    kv_heads = header.count("attention.head_count_kv", heads)
    head_size = header.count("attention.key_length", hidden // heads)
    if heads % kv_heads or head_size % 2:
        raise InvalidModelFile(f"{heads} heads cannot share {kv_heads}, or a head of {head_size} cannot be rotated")
    if header.count("attention.value_length", head_size) != head_size:
        raise Unsupported(f"values are {header.count('attention.value_length')} long and keys {head_size}")
    if header.count("rope.dimension_count", head_size) != head_size:
        rotated = header.count("rope.dimension_count")
        raise Unsupported(f"{rotated} of a head's {head_size} elements are rotated; all are expected")
    names = frozenset(tensors.names)
    return Decoder(
        architecture=architecture,
        layers=header.count("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=tensors.shape("token_embd.weight")[0],
        context_length=header.count("context_length"),
        epsilon=header.number("attention.layer_norm_rms_epsilon"),
        rope_base=header.number("rope.freq_base", 10_000.0),
        rope_scale=_rope_scale(header),
        rope_factors="rope_freqs.weight" if "rope_freqs.weight" in names else None,
        interleaved=architecture == "llama",
        tied="output.weight" not in names,
        biases="blk.0.attn_q.bias" in names,
        head_norms="blk.0.attn_q_norm.weight" in names,
    )


def context_length(decoder: Decoder, parameters: OnnxParameters) -> int:
    """The context length of the result: the requested one, else the model's own, within reason."""
    return parameters.context_length or min(decoder.context_length, LONGEST_CONTEXT)


def _rope_scale(header: _Numbers) -> float:
    """The factor of linear scaling; other kinds raise `Unsupported`."""
    kind = header.pairs.get(f"{header.architecture}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise Unsupported(f"the rope scaling {kind!r} cannot be converted")
    old = header.number("rope.scale_linear", 1.0)  # the key that was used when there was only one kind
    return header.number("rope.scaling.factor", old) if kind == "linear" else old


class _Numbers:
    """Reads the numbers in the header that belong to one architecture."""

    def __init__(self, pairs: Mapping[str, Any], architecture: str) -> None:
        self.pairs = pairs
        self.architecture = architecture

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidModelFile(f"{self.architecture}.{name} is {value!r}, but must be an integer above 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._get(name, default)
        if not isinstance(value, float | int) or not math.isfinite(value) or value <= 0:
            raise InvalidModelFile(f"{self.architecture}.{name} is {value!r}, but must be a number above 0")
        return float(value)

    def _get(self, name: str, default: float | None) -> Any:
        value = self.pairs.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise InvalidModelFile(f"the header has no {self.architecture}.{name}", "convert the model again")
        return value
