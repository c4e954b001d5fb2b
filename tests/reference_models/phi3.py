"""Phi-3 and Phi-4: fused projections, rotary positions of a part of each head, and LongRoPE's factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.reference_models.parts import (
    ACTIVATIONS,
    Array,
    Tensors,
    attention,
    heads_of,
    inverse_frequencies,
    rms_norm,
    rotated,
    visible,
)

__all__ = ("logits",)


def logits(config: Mapping[str, Any], tensors: Tensors, tokens: Sequence[int], *, long: bool = False) -> Array:
    """Of every position, from the tensors of ``Phi3ForCausalLM``.

    `long`: with the factors of LongRoPE for more than ``original_max_position_embeddings``.
    """
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, kv_heads, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    width = config["hidden_size"] // heads
    rotary = int(width * config.get("partial_rotary_factor", 1.0))
    frequencies, scale = inverse_frequencies(rotary, config["rope_theta"]), 1.0
    if scaling := config.get("rope_scaling"):
        frequencies = frequencies / np.array(scaling["long_factor" if long else "short_factor"])
        original = config["original_max_position_embeddings"]
        growth = config["max_position_embeddings"] / original
        scale = math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0
    seen = visible(len(tokens), config["sliding_window"])

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T

    x = weights["model.embed_tokens.weight"][list(tokens)]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        fused = linear(rms_norm(x, weights[f"{at}.input_layernorm.weight"], eps), f"{at}.self_attn.qkv_proj")
        q, k, v = np.split(fused, [heads * width, (heads + kv_heads) * width], axis=1)
        mixed = attention(
            rotated(heads_of(q, heads), frequencies, scale),
            rotated(heads_of(k, kv_heads), frequencies, scale),
            heads_of(v, kv_heads),
            seen,
            1 / math.sqrt(width),
        )
        x = x + linear(mixed, f"{at}.self_attn.o_proj")
        before = rms_norm(x, weights[f"{at}.post_attention_layernorm.weight"], eps)
        gate, up = np.split(linear(before, f"{at}.mlp.gate_up_proj"), 2, axis=1)
        x = x + linear(ACTIVATIONS[config["hidden_act"]](gate) * up, f"{at}.mlp.down_proj")
    x = rms_norm(x, weights["model.norm.weight"], eps)
    return x @ weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T
