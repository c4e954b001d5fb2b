"""BERT: all positions see each other. As a sentence encoder, and as a cross-encoder that scores a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tests.reference_models.parts import ACTIVATIONS, Array, Tensors, attention, heads_of, layer_norm

__all__ = ("relevance", "sentence_vectors")


def sentence_vectors(
    config: Mapping[str, Any],
    tensors: Tensors,
    texts: Sequence[Sequence[int]],
    *,
    pooling: Literal["mean", "cls"] = "mean",
) -> Array:
    """One row of length 1 for each text, from the tensors of ``BertModel``. All tokens are of type 0."""
    rows = _encoded(config, tensors, texts)
    pooled = np.stack([text.mean(axis=0) if pooling == "mean" else text[0] for text in rows])
    found: Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return found


def relevance(
    config: Mapping[str, Any], tensors: Tensors, tokens: Sequence[int], types: Sequence[int] | None = None
) -> Array:
    """The logits of a pair of texts, from the tensors of ``BertForSequenceClassification``: of the first position, what
    pooler and classifier make. Without `types`, all tokens are of type 0, as in llama.cpp.
    """
    [rows] = _encoded(config, tensors, [tokens], types)
    pooled = np.tanh(rows[0] @ tensors["pooler.dense.weight"].T + tensors["pooler.dense.bias"])
    found: Array = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    return found


def _encoded(
    config: Mapping[str, Any], tensors: Tensors, texts: Sequence[Sequence[int]], types: Sequence[int] | None = None
) -> list[Array]:
    """What the last layer says of each position of each text. The rows of all texts are computed together; only
    attention keeps them apart. `types` are those of all tokens of all texts; None is 0 for each.
    """
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    ends = np.cumsum([len(tokens) for tokens in texts])[:-1]

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(x: Array, name: str) -> Array:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def mixed(x: Array, at: str) -> Array:
        parts = (np.split(linear(x, f"{at}.attention.self.{name}"), ends) for name in ("query", "key", "value"))
        found = []
        for text in zip(*parts, strict=True):
            q, k, v = (heads_of(part, heads) for part in text)
            seen = np.ones((q.shape[1], q.shape[1]), np.bool_)
            found.append(attention(q, k, v, seen, 1 / math.sqrt(q.shape[-1])))
        return np.concatenate(found)

    table = weights["embeddings.position_embeddings.weight"]
    x = weights["embeddings.word_embeddings.weight"][np.concatenate(texts)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0 if types is None else list(types)]
    x = normed(x + np.concatenate([table[: len(tokens)] for tokens in texts]), "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        x = normed(x + linear(mixed(x, at), f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = ACTIVATIONS[config["hidden_act"]](linear(x, f"{at}.intermediate.dense"))
        x = normed(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return np.split(x, ends)
