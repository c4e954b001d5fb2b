"""Gemma 2: norms on both sides of each part, soft caps, and a sliding window in every other layer."""

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
    capped,
    heads_of,
    inverse_frequencies,
    rms_norm,
    rotated,
    visible,
)

__all__ = ("logits",)


def logits(config: Mapping[str, Any], tensors: Tensors, tokens: Sequence[int]) -> Array:
    """Of every position, from the tensors of ``Gemma2ForCausalLM``. Its norms store what is added to 1."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    kv_heads = config["num_key_value_heads"]
    frequencies = inverse_frequencies(config["head_dim"], config["rope_theta"])

    def normed(x: Array, name: str) -> Array:
        return rms_norm(x, 1 + weights[f"{name}.weight"], config["rms_norm_eps"])

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T

    x = weights["model.embed_tokens.weight"][list(tokens)] * math.sqrt(config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        before = normed(x, f"{at}.input_layernorm")
        q = rotated(heads_of(linear(before, f"{at}.self_attn.q_proj"), config["num_attention_heads"]), frequencies)
        k = rotated(heads_of(linear(before, f"{at}.self_attn.k_proj"), kv_heads), frequencies)
        v = heads_of(linear(before, f"{at}.self_attn.v_proj"), kv_heads)
        seen = visible(len(tokens), config["sliding_window"] if layer % 2 == 0 else None)
        mixed = attention(q, k, v, seen, config["query_pre_attn_scalar"] ** -0.5, config["attn_logit_softcapping"])
        x = x + normed(linear(mixed, f"{at}.self_attn.o_proj"), f"{at}.post_attention_layernorm")
        before = normed(x, f"{at}.pre_feedforward_layernorm")
        gate = ACTIVATIONS[config["hidden_activation"]](linear(before, f"{at}.mlp.gate_proj"))
        fed = linear(gate * linear(before, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        x = x + normed(fed, f"{at}.post_feedforward_layernorm")
    return capped(normed(x, "model.norm") @ weights["model.embed_tokens.weight"].T, config["final_logit_softcapping"])
