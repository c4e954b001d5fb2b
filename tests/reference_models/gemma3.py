"""Gemma 3's text model: norms of queries and keys, and layers with a sliding window that have a rotary base of their
own."""

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


def logits(config: Mapping[str, Any], tensors: Tensors, tokens: Sequence[int]) -> Array:
    """Of every position, from the tensors of ``Gemma3ForCausalLM``. Its norms store what is added to 1.

    Layers are told by `layer_types`, or else every `sliding_window_pattern`-th one sees everything.
    """
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    width, kv_heads = config["head_dim"], config["num_key_value_heads"]
    scaling = config.get("rope_scaling") or {"factor": 1.0}
    everywhere = inverse_frequencies(width, config["rope_theta"]) / scaling["factor"]
    nearby = inverse_frequencies(width, config["rope_local_base_freq"])

    def normed(x: Array, name: str) -> Array:
        return rms_norm(x, 1 + weights[f"{name}.weight"], config["rms_norm_eps"])

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T

    def slides(layer: int) -> bool:
        if "layer_types" in config:
            return bool(config["layer_types"][layer] == "sliding_attention")
        return bool((layer + 1) % config["sliding_window_pattern"])

    x = weights["model.embed_tokens.weight"][list(tokens)] * math.sqrt(config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        before = normed(x, f"{at}.input_layernorm")
        q = heads_of(linear(before, f"{at}.self_attn.q_proj"), config["num_attention_heads"])
        k = heads_of(linear(before, f"{at}.self_attn.k_proj"), kv_heads)
        v = heads_of(linear(before, f"{at}.self_attn.v_proj"), kv_heads)
        frequencies = nearby if slides(layer) else everywhere
        q = rotated(normed(q, f"{at}.self_attn.q_norm"), frequencies)
        k = rotated(normed(k, f"{at}.self_attn.k_norm"), frequencies)
        seen = visible(len(tokens), config["sliding_window"] if slides(layer) else None)
        mixed = attention(q, k, v, seen, config["query_pre_attn_scalar"] ** -0.5)
        x = x + normed(linear(mixed, f"{at}.self_attn.o_proj"), f"{at}.post_attention_layernorm")
        before = normed(x, f"{at}.pre_feedforward_layernorm")
        gate = ACTIVATIONS[config["hidden_activation"]](linear(before, f"{at}.mlp.gate_proj"))
        fed = linear(gate * linear(before, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        x = x + normed(fed, f"{at}.post_feedforward_layernorm")
    return normed(x, "model.norm") @ weights["model.embed_tokens.weight"].T
