"""Decides which kind of tokenizer a checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.tokenizers.byte_bpe import byte_bpe_keys, is_byte_bpe
from corral.adapters.converters.safetensors.tokenizers.chat_template import chat_template_keys
from corral.adapters.converters.safetensors.tokenizers.special_tokens import special_keys
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("tokenizer_keys",)


def tokenizer_keys(checkpoint: Checkpoint, rows: int) -> Mapping[str, Any]:
    """All keys below ``tokenizer``, for a model with `rows` tokens.

    Raises `Unsupported` for a tokenizer that llama.cpp does not have, and `InvalidModelFile`.
    """
    if not checkpoint.has("tokenizer.json"):
        raise InvalidModelFile(
            "the checkpoint has no tokenizer: tokenizer.json is missing", "copy it from the original model"
        )
    description = checkpoint.json("tokenizer.json")
    if not is_byte_bpe(description):
        model = description.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        raise Unsupported(f"tokenizer.json has a tokenizer of the kind {kind!r} that cannot be converted")
    vocabulary = byte_bpe_keys(description, rows)
    return {
        **vocabulary,
        **special_keys(checkpoint, vocabulary["tokenizer.ggml.tokens"], description),
        **chat_template_keys(checkpoint),
    }
