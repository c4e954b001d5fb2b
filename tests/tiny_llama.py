"""Writes tiny models of the architecture llama with random weights, which llama.cpp loads in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding

__all__ = ("letter_vocabulary", "write_tiny_llama")

_WIDTH, _HEADS = 256, 4  # a row of 256 values is one block of a K-quant
_LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
_TEXTS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
_TYPES = {"F32": ("<f4", 0), "F16": ("<f2", 1)}


def write_tiny_llama(path: Path, kind: str = "F16", *, layers: int = 1, seed: int = 0, letters: str = _LETTERS) -> Path:
    """A model whose weights are of the type ``F32`` or ``F16``, at `path`. Its tokens are bytes, and these letters."""
    texts = [*_TEXTS, *(letter.replace(" ", "▁") for letter in letters)]
    dtype, file_type = _TYPES[kind]
    random = np.random.default_rng(seed)
    shapes = {"token_embd.weight": (_WIDTH, len(texts)), "output_norm.weight": (_WIDTH,)}
    for layer in range(layers):
        for name, shape in {
            "attn_norm": (_WIDTH,),
            "attn_q": (_WIDTH, _WIDTH),
            "attn_k": (_WIDTH, _WIDTH // _HEADS),
            "attn_v": (_WIDTH, _WIDTH // _HEADS),
            "attn_output": (_WIDTH, _WIDTH),
            "ffn_norm": (_WIDTH,),
            "ffn_gate": (_WIDTH, _WIDTH),
            "ffn_up": (_WIDTH, _WIDTH),
            "ffn_down": (_WIDTH, _WIDTH),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    shapes["output.weight"] = (_WIDTH, len(texts))
    tensors, data = [], []
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.1, shape[::-1])
        raw = values.astype("<f4" if len(shape) == 1 else dtype).tobytes()
        tensors.append(NewTensor(name, "F32" if len(shape) == 1 else kind, shape, len(raw)))
        data.append(raw + bytes(padding(len(raw))))
    pairs = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": file_type,
        "general.quantization_version": 2,
        "llama.block_count": layers,
        "llama.context_length": 512,
        "llama.embedding_length": _WIDTH,
        "llama.feed_forward_length": _WIDTH,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _WIDTH // _HEADS,
        "llama.vocab_size": len(texts),
        **letter_vocabulary(letters),
    }
    path.write_bytes(gguf_header(3, pairs, tensors) + b"".join(data))
    return path


def letter_vocabulary(letters: str = _LETTERS) -> dict[str, Any]:
    """The keys of a vocabulary of bytes and these letters, whose end of text is ``</s>``."""
    texts = [*_TEXTS, *(letter.replace(" ", "▁") for letter in letters)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(1, len(letters) + 1)],
        "tokenizer.ggml.token_type": [2, 3, 3, *([6] * 256), *([1] * len(letters))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }
