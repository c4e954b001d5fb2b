"""Writes a GGUF of the llama family as the checkpoint that it could have been converted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corral.adapters.converters.onnx.tokenizer import tokenizer_config, tokenizer_json
from corral.adapters.converters.onnx.vocabulary import read_vocabulary
from corral.adapters.formats.gguf.tensors import GgufTensors
from tests.checkpoints.files import Floats, write_checkpoint

__all__ = ("write_llama_checkpoint",)

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def write_llama_checkpoint(gguf: Path, folder: Path, *, dtype: str = "F32", files: int = 1) -> Path:
    """The folder, with config.json, tokenizer.json and weights of this dtype; what is quantized is dequantized."""
    vocabulary = read_vocabulary(gguf)
    with GgufTensors(gguf) as source:
        pairs = {key.removeprefix("llama."): value for key, value in source.pairs.items()}
        heads, kv_heads = pairs["attention.head_count"], pairs["attention.head_count_kv"]
        tensors = {}
        for name in source.names:
            values = source.dequantized(name)
            part = name.removesuffix(".weight").split(".")
            if part[-1] in ("attn_q", "attn_k"):
                values = _halves(values, heads if part[-1] == "attn_q" else kv_heads)
            if len(part) == 1:
                tensors[f"{_OUTER[part[0]]}.weight"] = values
            else:
                tensors[f"model.layers.{part[1]}.{_PARTS[part[2]]}.weight"] = values
        template = source.pairs.get("tokenizer.chat_template")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": pairs["block_count"],
        "max_position_embeddings": pairs["context_length"],
        "hidden_size": pairs["embedding_length"],
        "intermediate_size": pairs["feed_forward_length"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": pairs["attention.layer_norm_rms_epsilon"],
        "rope_theta": pairs["rope.freq_base"],
        "vocab_size": len(vocabulary.tokens),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    others = {
        "tokenizer.json": tokenizer_json(vocabulary),
        "tokenizer_config.json": tokenizer_config(vocabulary, pairs["context_length"], template),
    }
    return write_checkpoint(folder, config, tensors, others, dtype=dtype, files=files)


def _halves(rows: Floats, heads: int) -> Floats:
    """Rows in the order of rotated pairs, with the first half of each head before the second."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
