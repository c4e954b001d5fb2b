"""Llama, and Mistral, which llama.cpp computes as a llama."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.decoder import Change, DecoderFamily
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("LLAMA", "LlamaFamily", "as_pairs")


class LlamaFamily(DecoderFamily):
    architecture = "llama"

    def rearranging(self, config: Config, target: str) -> Change | None:
        if target not in ("attn_q", "attn_k"):
            return None
        heads = config.count("num_attention_heads")
        count = heads if target == "attn_q" else config.count("num_key_value_heads", heads)
        size = self.head_size(config)
        return lambda rows: as_pairs(rows, count, size)

    def own_keys(self, config: Config) -> dict[str, Any]:
        if config.number("partial_rotary_factor", 1.0) != 1.0:
            raise Unsupported("llama.cpp rotates whole heads of llama, but this model has a partial_rotary_factor")
        return {}


def as_pairs(rows: NDArray[Any], heads: int, head_size: int) -> NDArray[Any]:
    """Rows of Q or K whose first half of each head is rotated with the second, in the order of rotated pairs, which
    llama.cpp expects of llama."""
    if rows.shape[0] != heads * head_size:
        raise InvalidModelFile(
            f"config.json: {rows.shape[0]} rows of Q or K are not {heads} heads of {head_size}", "fetch it again"
        )
    halves = rows.reshape(heads, 2, head_size // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


LLAMA = LlamaFamily()
