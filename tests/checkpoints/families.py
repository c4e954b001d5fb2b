"""The configurations of tiny checkpoints of every family, and random weights of the shapes that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.checkpoints.files import Floats

__all__ = ("bert_weights", "decoder_weights", "gemma_weights", "phi3_weights")

_Shapes = Mapping[str, tuple[int, ...]]


def decoder_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    """Of a llama, Mistral, Qwen2 (with biases) or Qwen3 (with norms of queries and keys)."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width, queries, keys = _widths(config)
    own: dict[str, tuple[int, ...]] = {}
    if config["model_type"] == "qwen2":
        own = {"self_attn.q_proj.bias": (queries,), "self_attn.k_proj.bias": (keys,), "self_attn.v_proj.bias": (keys,)}
    if config["model_type"] == "qwen3":
        own = {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    shapes = _decoder(
        config,
        {
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            **own,
        },
    )
    return _drawn(shapes, seed, norm=1.0)


def gemma_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    """Of a Gemma 2, or 3 (with norms of queries and keys). Norms are stored less 1."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width, queries, keys = _widths(config)
    norms = {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    shapes = _decoder(
        config,
        {
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "pre_feedforward_layernorm.weight": (hidden,),
            "post_feedforward_layernorm.weight": (hidden,),
            **(norms if config["model_type"] == "gemma3_text" else {}),
        },
    )
    return _drawn(shapes, seed, norm=0.0)


def phi3_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    """Of a Phi-3, whose projections are fused."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    _, queries, keys = _widths(config)
    shapes = _decoder(
        config,
        {
            "self_attn.qkv_proj.weight": (queries + 2 * keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_up_proj.weight": (2 * inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        },
    )
    return _drawn(shapes, seed, norm=1.0)


def bert_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    """Of a ``BertModel``, with the pooler that sentence encoders do not use."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **_normed("embeddings.LayerNorm", hidden),
        **_linear("pooler.dense", hidden, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{at}.attention.{name}", hidden, hidden)
        shapes |= _normed(f"{at}.attention.output.LayerNorm", hidden)
        shapes |= _linear(f"{at}.intermediate.dense", inner, hidden)
        shapes |= _linear(f"{at}.output.dense", hidden, inner)
        shapes |= _normed(f"{at}.output.LayerNorm", hidden)
    return _drawn(shapes, seed, norm=1.0)


def _widths(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of a head, of all queries, and of all keys."""
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return width, width * config["num_attention_heads"], width * config["num_key_value_heads"]


def _decoder(config: Mapping[str, Any], layer_shapes: _Shapes) -> _Shapes:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], config["hidden_size"])}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes.items()}
    shapes["model.norm.weight"] = (config["hidden_size"],)
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return shapes


def _linear(name: str, rows: int, columns: int) -> _Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _normed(name: str, width: int) -> _Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _drawn(shapes: _Shapes, seed: int, *, norm: float) -> dict[str, Floats]:
    """So that every part has a say: matrices keep the size of what they multiply, norms differ by dimension."""
    random = np.random.default_rng(seed)
    found: dict[str, Floats] = {}
    for name, shape in shapes.items():
        if len(shape) == 2:
            values = random.normal(0, shape[1] ** -0.5, shape)
        else:
            values = (norm if "norm" in name.lower() and name.endswith("weight") else 0) + random.normal(0, 0.3, shape)
        found[name] = values.astype(np.float32)
    return found
