"""Which tensors a llama model of September 2023 consists of, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ("EMBEDDING", "OUTPUT", "WANTED_KEYS", "llama_shapes")

EMBEDDING, OUTPUT, _OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm.weight"

WANTED_KEYS = (
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.block_count",
    "llama.attention.head_count",
)
"""Keys that must be present, as whole numbers above 0. ``head_count_kv`` may be missing."""


def llama_shapes(keys: Mapping[str, Any], vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in file order, the fastest dimension first. `keys` has the `WANTED_KEYS`.

    Source: llama.cpp of September 2023, ``llm_load_tensors``. It accepts exactly these tensors.
    """
    width, inner = keys["llama.embedding_length"], keys["llama.feed_forward_length"]
    heads = keys["llama.attention.head_count"]
    cached = width // heads * keys.get("llama.attention.head_count_kv", heads)
    layer = {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (width, cached),
        "attn_v": (width, cached),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (width, inner),
        "ffn_up": (width, inner),
        "ffn_down": (inner, width),
    }
    return {
        EMBEDDING: (width, vocabulary_size),
        **{
            f"blk.{index}.{name}.weight": shape
            for index in range(keys["llama.block_count"])
            for name, shape in layer.items()
        },
        _OUTPUT_NORM: (width,),
        OUTPUT: (width, vocabulary_size),
    }
