"""Writes a tiny random checkpoint of the architecture llama, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corral.adapters.formats.gguf.vocabulary import byte_level_text
from tests.checkpoints.files import Floats, write_checkpoint

__all__ = ("CHATML", "llama_config", "llama_shapes", "tokenizer_files", "write_tiny_checkpoint")

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_tiny_checkpoint(
    folder: Path,
    *,
    dtype: str = "F32",
    files: int = 1,
    width: int = 64,
    layers: int = 1,
    rows: int = 264,
    seed: int = 0,
    architecture: str = "LlamaForCausalLM",
    **config: Any,
) -> Path:
    """The folder. `width` and `layers` say how large the model is, `rows` how many tokens it has."""
    random = np.random.default_rng(seed)
    shapes = llama_shapes(width, layers, rows)
    tensors: dict[str, Floats] = {
        name: random.standard_normal(shape, np.float32) * np.float32(0.125) for name, shape in shapes.items()
    }
    stated = llama_config(width, layers, rows) | {"architectures": [architecture], **config}
    return write_checkpoint(folder, stated, tensors, tokenizer_files(), dtype=dtype, files=files)


def llama_shapes(width: int, layers: int, rows: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a llama with four heads, two of them for keys and values, whose output is the token table."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (width,),
                "self_attn.q_proj": (width, width),
                "self_attn.k_proj": (width // 2, width),
                "self_attn.v_proj": (width // 2, width),
                "self_attn.o_proj": (width, width),
                "post_attention_layernorm": (width,),
                "mlp.gate_proj": (2 * width, width),
                "mlp.up_proj": (2 * width, width),
                "mlp.down_proj": (width, 2 * width),
            }.items()
        }
    return shapes


def llama_config(width: int, layers: int, rows: int) -> dict[str, Any]:
    """The content of its ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "num_hidden_layers": layers,
        "max_position_embeddings": 128,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": rows,
        "tie_word_embeddings": True,
    }


def tokenizer_files() -> dict[str, dict[str, Any]]:
    """All bytes, one merge, and the control tokens of ChatML; cut as GPT-2 does."""
    tokens = [byte_level_text(bytes((byte,))) for byte in range(256)]
    tokens.append(byte_level_text(b"he"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [
        {"id": 257 + place, "content": text, "special": True, "normalized": False}
        for place, text in enumerate(_SPECIAL)
    ]
    return {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {token: index for index, token in enumerate(tokens)},
                "merges": [["h", "e"]],
            },
        },
        "tokenizer_config.json": {
            "bos_token": "<|endoftext|>",
            "eos_token": {"content": "<|im_end|>"},
            "add_bos_token": False,
            "chat_template": CHATML,
        },
        "generation_config.json": {"eos_token_id": [259, 257]},
    }
