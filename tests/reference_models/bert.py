"""BERT as a sentence encoder: all positions see each other, and a sentence's vector is pooled from theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tests.reference_models.parts import ACTIVATIONS, Array, Tensors, attention, heads_of, layer_norm

__all__ = ("sentence_vector",)


def sentence_vector(
    config: Mapping[str, Any], tensors: Tensors, tokens: Sequence[int], *, pooling: Literal["mean", "cls"] = "mean"
) -> Array:
    """Of length 1, from the tensors of ``BertModel``. All tokens are of type 0."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    seen = np.ones((len(tokens), len(tokens)), np.bool_)

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(x: Array, name: str) -> Array:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    x = weights["embeddings.word_embeddings.weight"][list(tokens)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = normed(x + weights["embeddings.position_embeddings.weight"][: len(tokens)], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (heads_of(linear(x, f"{at}.attention.self.{name}"), heads) for name in ("query", "key", "value"))
        mixed = attention(q, k, v, seen, 1 / math.sqrt(q.shape[-1]))
        x = normed(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = ACTIVATIONS[config["hidden_act"]](linear(x, f"{at}.intermediate.dense"))
        x = normed(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    pooled = x.mean(axis=0) if pooling == "mean" else x[0]
    found: Array = pooled / np.linalg.norm(pooled)
    return found
