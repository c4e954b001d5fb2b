"""Llama, Mistral, Qwen2 and Qwen3: one decoder, whose attention has biases or norms of its own in the last two."""

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
    """Of every position, from the tensors of ``LlamaForCausalLM`` and its kin."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    frequencies, amplitude = _frequencies(config, width), _amplitude(config)
    seen = visible(len(tokens))

    def linear(x: Array, name: str) -> Array:
        bias = weights.get(f"{name}.bias")
        return x @ weights[f"{name}.weight"].T + (0 if bias is None else bias)

    def projected(x: Array, name: str, count: int, norm: str | None) -> Array:
        found = heads_of(linear(x, name), count)
        weight = None if norm is None else weights.get(norm)
        return found if weight is None else rms_norm(found, weight, eps)

    x = weights["model.embed_tokens.weight"][list(tokens)]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        normed = rms_norm(x, weights[f"{at}.input_layernorm.weight"], eps)
        q = projected(normed, f"{at}.self_attn.q_proj", heads, f"{at}.self_attn.q_norm.weight")
        k = projected(normed, f"{at}.self_attn.k_proj", config["num_key_value_heads"], f"{at}.self_attn.k_norm.weight")
        v = projected(normed, f"{at}.self_attn.v_proj", config["num_key_value_heads"], None)
        q, k = rotated(q, frequencies, amplitude), rotated(k, frequencies, amplitude)
        mixed = attention(q, k, v, seen, 1 / math.sqrt(width))
        x = x + linear(mixed, f"{at}.self_attn.o_proj")
        normed = rms_norm(x, weights[f"{at}.post_attention_layernorm.weight"], eps)
        gate = ACTIVATIONS[config["hidden_act"]](linear(normed, f"{at}.mlp.gate_proj"))
        x = x + linear(gate * linear(normed, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    x = rms_norm(x, weights["model.norm.weight"], eps)
    found: Array = x @ weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T
    return found


def _frequencies(config: Mapping[str, Any], width: int) -> Array:
    """RoPE's, scaled as Llama 3.1 does: long waves by the whole factor, short ones not at all, and smoothly between."""
    found = inverse_frequencies(width, config["rope_theta"])
    scaling = config.get("rope_scaling")
    if scaling is None:
        return found
    if scaling["rope_type"] == "linear":
        slower: Array = found / scaling["factor"]
        return slower
    if scaling["rope_type"] == "yarn":
        return _yarn(found, config, scaling)
    assert scaling["rope_type"] == "llama3"
    turns = scaling["original_max_position_embeddings"] * found / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    scaled: Array = found * (share + (1 - share) / scaling["factor"])
    return scaled


def _yarn(found: Array, config: Mapping[str, Any], scaling: Mapping[str, Any]) -> Array:
    """As in YaRN (Peng et al., 2023), section 3.2: dimensions that turn often stay, those that turn seldom are slowed
    down, and those between are mixed by their place."""
    trained, pairs = scaling["original_max_position_embeddings"], len(found)

    def place(turns: float) -> float:
        """The pair of dimensions that turns so often within the trained length."""
        return pairs * math.log(trained / (turns * 2 * math.pi)) / math.log(config["rope_theta"])

    low = max(math.floor(place(scaling.get("beta_fast", 32.0))), 0)
    high = min(math.ceil(place(scaling.get("beta_slow", 1.0))), 2 * pairs - 1)
    slowed = np.clip((np.arange(pairs) - low) / max(high - low, 0.001), 0, 1)
    mixed: Array = found * (1 - slowed) + found / scaling["factor"] * slowed
    return mixed


def _amplitude(config: Mapping[str, Any]) -> float:
    """By which YaRN multiplies rotated queries and keys."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "yarn":
        return 1.0
    return float(scaling.get("attention_factor", 0.1 * math.log(scaling["factor"]) + 1))
