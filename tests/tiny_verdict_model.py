"""Writes a tiny Qwen3-Reranker with random weights: a decoder that says yes or no, and how likely either is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding
from tests.checkpoints.families import decoder_weights
from tests.checkpoints.files import Floats
from tests.reference_models import llama
from tests.tiny_llama import letter_vocabulary

__all__ = ("TEMPLATE", "verdict", "write_tiny_verdict_model")

TEMPLATE = "<s>is {document} about {query}, yes or no</s>"
_VOCABULARY = letter_vocabulary()
_CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": len(_VOCABULARY["tokenizer.ggml.tokens"]),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
_YES, _NO = 260, 261
"""The tokens whose logits are compared."""

_PARTS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_tiny_verdict_model(path: Path) -> Path:
    """The model in F32, at `path`, with its template and the rows of both answers as classifier."""
    weights = decoder_weights(_CONFIG)
    stored = {_gguf_name(name): values for name, values in weights.items()}
    stored["cls.output.weight"] = weights["lm_head.weight"][[_YES, _NO]]
    tensors, data = [], []
    for name, values in stored.items():
        raw = values.astype("<f4").tobytes()
        tensors.append(NewTensor(name, "F32", values.shape[::-1], len(raw)))
        data.append(raw + bytes(padding(len(raw))))
    own = {
        "block_count": _CONFIG["num_hidden_layers"],
        "context_length": _CONFIG["max_position_embeddings"],
        "embedding_length": _CONFIG["hidden_size"],
        "feed_forward_length": _CONFIG["intermediate_size"],
        "attention.head_count": _CONFIG["num_attention_heads"],
        "attention.head_count_kv": _CONFIG["num_key_value_heads"],
        "attention.key_length": _CONFIG["head_dim"],
        "attention.value_length": _CONFIG["head_dim"],
        "attention.layer_norm_rms_epsilon": _CONFIG["rms_norm_eps"],
        "rope.freq_base": _CONFIG["rope_theta"],
        "pooling_type": 4,
        "classifier.output_labels": ["yes", "no"],
    }
    pairs = {
        "general.architecture": "qwen3",
        "general.name": "Tiny verdict",
        "general.file_type": 0,
        **{f"qwen3.{key}": value for key, value in own.items()},
        **_VOCABULARY,
        "tokenizer.chat_template.rerank": TEMPLATE,
    }
    path.write_bytes(gguf_header(3, pairs, tensors) + b"".join(data))
    return path


def verdict(tokens: Sequence[int]) -> float:
    """The log-odds of yes after these tokens, in float64."""
    weights: dict[str, Floats] = decoder_weights(_CONFIG)
    last = llama.logits(_CONFIG, weights, tokens)[-1]
    return float(np.subtract(last[_YES], last[_NO]))


def _gguf_name(name: str) -> str:
    part = name.removesuffix(".weight")
    if part in _PARTS:
        return f"{_PARTS[part]}.weight"
    layer, own = part.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_LAYER_PARTS[own]}.weight"
