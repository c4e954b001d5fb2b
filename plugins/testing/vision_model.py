"""Writes a tiny model with a projector, both with random weights, so that tests of images run all of an engine.

The projector's kinds stand for what engines have to handle: ``mlp`` is computed like text, the cells of a ``gemma3``
image all see each other, and those of a ``qwen2vl_merger`` image share positions (M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from corral.plugins.testing.gguf import Tagged, TensorEntry, gguf_bytes

__all__ = ("ProjectorKind", "projector_bytes", "text_model_bytes")

ProjectorKind = Literal["mlp", "gemma3", "qwen2vl_merger"]

_WIDTH, _LAYERS, _HEADS, _KV_HEADS, _INNER = 64, 2, 4, 2, 128
_PATCH, _SIDE = 14, 56
_IMAGE_WIDTH, _IMAGE_HEADS = 32, 2

_CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


def text_model_bytes(kind: ProjectorKind = "mlp", *, context_length: int = 2048) -> bytes:
    """A GGUF file with a language model for projectors of this kind. Its tokens are control tokens and bytes."""
    architecture = "qwen2vl" if kind == "qwen2vl_merger" else "llama"
    control = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    letters = [chr(code) for code in range(33, 127)] + ["\u2581"]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    types = [2, *[3] * (len(control) - 1), *[6] * 256, *[1] * len(letters)]
    pairs: dict[str, Any] = {
        "general.architecture": architecture,
        "general.name": "Tiny Vision",
        f"{architecture}.block_count": _LAYERS,
        f"{architecture}.context_length": context_length,
        f"{architecture}.embedding_length": _WIDTH,
        f"{architecture}.feed_forward_length": _INNER,
        f"{architecture}.attention.head_count": _HEADS,
        f"{architecture}.attention.head_count_kv": _KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0 if kind_of != 1 else -1.0 for kind_of in types],
        "tokenizer.ggml.token_type": [Tagged(5, kind_of) for kind_of in types],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": _CHATML,
    }
    if architecture == "qwen2vl":
        pairs["qwen2vl.rope.dimension_sections"] = [Tagged(5, size) for size in (2, 3, 3, 0)]
    weights = _Weights(7)
    weights.add("token_embd.weight", _WIDTH, len(tokens))
    weights.add("output.weight", _WIDTH, len(tokens), spread=0.3)
    weights.ones("output_norm.weight", _WIDTH)
    head = _WIDTH // _HEADS
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        for name, size in (("q", _WIDTH), ("k", _KV_HEADS * head), ("v", _KV_HEADS * head)):
            weights.add(f"{block}.attn_{name}.weight", _WIDTH, size)
            if architecture == "qwen2vl":
                weights.add(f"{block}.attn_{name}.bias", size)
        weights.add(f"{block}.attn_output.weight", _WIDTH, _WIDTH)
        weights.ones(f"{block}.attn_norm.weight", _WIDTH)
        weights.ones(f"{block}.ffn_norm.weight", _WIDTH)
        weights.add(f"{block}.ffn_gate.weight", _WIDTH, _INNER)
        weights.add(f"{block}.ffn_up.weight", _WIDTH, _INNER)
        weights.add(f"{block}.ffn_down.weight", _INNER, _WIDTH)
    return gguf_bytes(pairs, weights.tensors)


def projector_bytes(kind: ProjectorKind = "mlp", *, width: int = _WIDTH, **more: Any) -> bytes:
    """A GGUF file with a projector for `text_model_bytes`. `width` is that of the model it belongs to; `more` are
    further keys, or others, after ``clip.``.
    """
    pairs: dict[str, Any] = {
        "general.architecture": "clip",
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": True,
        "clip.vision.embedding_length": _IMAGE_WIDTH,
        "clip.vision.feed_forward_length": 64,
        "clip.vision.block_count": 2,
        "clip.vision.projection_dim": width,
        "clip.vision.attention.head_count": _IMAGE_HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_size": _SIDE,
        "clip.vision.patch_size": _PATCH,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    weights = _Weights(8)
    weights.add("v.patch_embd.weight", _PATCH, _PATCH, 3, _IMAGE_WIDTH, spread=0.1)
    for layer in range(2):
        block = f"v.blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            weights.add(f"{block}.{name}.weight", _IMAGE_WIDTH, _IMAGE_WIDTH)
            weights.add(f"{block}.{name}.bias", _IMAGE_WIDTH)
        for name in ("ln1", "ln2"):
            weights.ones(f"{block}.{name}.weight", _IMAGE_WIDTH)
            weights.add(f"{block}.{name}.bias", _IMAGE_WIDTH)
        weights.add(f"{block}.ffn_up.weight", _IMAGE_WIDTH, 64)
        weights.add(f"{block}.ffn_down.weight", 64, _IMAGE_WIDTH)
    patches = (_SIDE // _PATCH) ** 2
    if kind == "gemma3":
        pairs["clip.vision.projector.scale_factor"] = 2
        weights.add("v.position_embd.weight", _IMAGE_WIDTH, patches)
        weights.add("v.patch_embd.bias", _IMAGE_WIDTH)
        weights.ones("v.post_ln.weight", _IMAGE_WIDTH)
        weights.add("v.post_ln.bias", _IMAGE_WIDTH)
        weights.add("mm.input_projection.weight", width, _IMAGE_WIDTH)
        weights.ones("mm.soft_emb_norm.weight", _IMAGE_WIDTH)
    elif kind == "qwen2vl_merger":
        weights.add("v.patch_embd.weight.1", _PATCH, _PATCH, 3, _IMAGE_WIDTH, spread=0.1)
        weights.ones("v.post_ln.weight", _IMAGE_WIDTH)
        weights.add("v.post_ln.bias", _IMAGE_WIDTH)
        weights.add("mm.0.weight", 4 * _IMAGE_WIDTH, 4 * _IMAGE_WIDTH)
        weights.add("mm.0.bias", 4 * _IMAGE_WIDTH)
        weights.add("mm.2.weight", 4 * _IMAGE_WIDTH, width)
        weights.add("mm.2.bias", width)
    else:
        weights.add("v.class_embd", _IMAGE_WIDTH)
        weights.add("v.position_embd.weight", _IMAGE_WIDTH, patches + 1)
        weights.add("mm.0.weight", _IMAGE_WIDTH, width)
        weights.add("mm.0.bias", width)
        weights.add("mm.2.weight", width, width)
        weights.add("mm.2.bias", width)
    return gguf_bytes(pairs | {f"clip.{key}": value for key, value in more.items()}, weights.tensors)


class _Weights:
    """Tensors with random numbers, the same in every run."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.tensors: list[TensorEntry] = []

    def add(self, name: str, *shape: int, spread: float | None = None) -> None:
        scale = spread or shape[0] ** -0.5
        self._append(name, shape, self._random.standard_normal(shape[::-1]) * scale)

    def ones(self, name: str, size: int) -> None:
        self._append(name, (size,), np.ones(size))

    def _append(self, name: str, shape: Sequence[int], values: Any) -> None:
        data = values.astype(np.float32).tobytes()
        self.tensors.append(TensorEntry(name=name, shape=shape, size_bytes=len(data), data=data))
