"""Decides which kind of tokenizer a checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.tokenizers.byte_bpe import byte_bpe_keys, is_byte_bpe
from corral.adapters.converters.safetensors.tokenizers.chat_template import chat_template_keys
from corral.adapters.converters.safetensors.tokenizers.sentence_pieces import is_sentence_pieces, sentence_piece_keys
from corral.adapters.converters.safetensors.tokenizers.special_tokens import special_keys
from corral.adapters.converters.safetensors.tokenizers.word_pieces import is_word_pieces, word_piece_keys
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("tokenizer_keys",)

_PIECES = "tokenizer.model"


def tokenizer_keys(checkpoint: Checkpoint, rows: int) -> Mapping[str, Any]:
    """All keys below ``tokenizer``, for a model with `rows` tokens.

    Raises `Unsupported` for a tokenizer that llama.cpp does not have, and `InvalidModelFile`.
    """
    description = checkpoint.optional_json("tokenizer.json")
    if is_word_pieces(description, checkpoint):
        keys = word_piece_keys(description, checkpoint, rows)
    else:
        if is_byte_bpe(description):
            keys = byte_bpe_keys(description, rows)
        elif is_sentence_pieces(description) or (not description and checkpoint.has(_PIECES)):
            pieces = checkpoint.data(_PIECES) if checkpoint.has(_PIECES) else None
            keys = sentence_piece_keys(description, pieces, rows)
        else:
            raise _unknown(description)
        keys |= special_keys(checkpoint, keys["tokenizer.ggml.tokens"], description)
    _check_distinct(keys["tokenizer.ggml.tokens"])
    return {**keys, **chat_template_keys(checkpoint)}


def _unknown(description: Mapping[str, Any]) -> Exception:
    if not description:
        return InvalidModelFile(
            f"the checkpoint has no tokenizer: neither tokenizer.json nor {_PIECES}", "copy it from the original model"
        )
    model = description.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    return Unsupported(f"tokenizer.json has a tokenizer of the kind {kind!r} that cannot be converted")


def _check_distinct(tokens: list[str]) -> None:
    """llama.cpp ends its process if two tokens have one text."""
    seen: set[str] = set()
    for text in tokens:
        if text in seen:
            raise InvalidModelFile(f"two tokens have the text {text[:60]!r}", "fetch the tokenizer again")
        seen.add(text)
