"""Byte-level BPE, as in GPT-2, Llama 3 and Qwen: ``tokenizer.json`` as the keys that llama.cpp reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.converters.safetensors.tokenizers.added_tokens import token_table
from corral.adapters.converters.safetensors.tokenizers.pre_tokenizer import pre_tokenizer_name
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("byte_bpe_keys", "is_byte_bpe")

_SPACE = "\u0120"  # how byte-level BPE spells a space, which separates the parts of a merge


class _Bpe(msgspec.Struct, frozen=True):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]] = []
    ignore_merges: bool = False
    byte_fallback: bool = False
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


def is_byte_bpe(description: Mapping[str, Any]) -> bool:
    """Whether this ``tokenizer.json`` has a byte-level BPE: one that spells bytes as characters of their own."""
    model = description.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        return False
    return any(kind == "ByteLevel" for part in ("pre_tokenizer", "decoder") for kind in _kinds(description.get(part)))


def byte_bpe_keys(description: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The keys of the vocabulary, with `rows` tokens. Raises `Unsupported` and `InvalidModelFile`."""
    try:
        model = msgspec.convert(description["model"], _Bpe)
    except msgspec.ValidationError as error:
        raise InvalidModelFile(f"tokenizer.json is malformed: model: {error}", "fetch it again") from error
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, name):
            raise Unsupported(f"tokenizer.json: {name} is {getattr(model, name)!r}, which llama.cpp does not have")
    tokens, types = token_table(description, model.vocab, rows)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer_name(description, ignore_merges=model.ignore_merges),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [_merge(merge) for merge in model.merges],
    }


def _merge(merge: str | tuple[str, str]) -> str:
    return merge if isinstance(merge, str) else " ".join(part.replace(" ", _SPACE) for part in merge)


def _kinds(step: Any) -> list[Any]:
    """The types of a step of ``tokenizer.json``, or of those in a sequence of them."""
    if not isinstance(step, dict):
        return []
    inner = step.get("pretokenizers") or step.get("decoders")
    if isinstance(inner, list):
        return [kind for one in inner for kind in _kinds(one)]
    return [step.get("type")]
