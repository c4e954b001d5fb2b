"""WordPiece, as in BERT: ``tokenizer.json`` or ``vocab.txt`` as the keys that llama.cpp reads.

llama.cpp marks the beginning of a word, where WordPiece marks what continues one: ``##ing`` becomes ``ing``, and
``word`` becomes ``▁word``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.tokenizers.added_tokens import token_table
from corral.adapters.converters.safetensors.tokenizers.special_tokens import token_text
from corral.adapters.formats.gguf.vocabulary import CONTROL, NORMAL, SPACE
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("is_word_pieces", "word_piece_keys")

_FILE = "vocab.txt"
_ROLES = {  # what llama.cpp calls the tokens, and their usual texts
    "cls": (("bos_token_id", "cls_token_id"), "[CLS]"),
    "sep": (("eos_token_id", "seperator_token_id"), "[SEP]"),
    "unk": (("unknown_token_id",), "[UNK]"),
    "pad": (("padding_token_id",), "[PAD]"),
    "mask": (("mask_token_id",), "[MASK]"),
}
_NEEDED = ("cls", "sep", "unk")


class _WordPiece(msgspec.Struct, frozen=True):
    vocab: dict[str, int]
    continuing_subword_prefix: str = "##"


def is_word_pieces(description: Mapping[str, Any], checkpoint: Checkpoint) -> bool:
    """Whether ``tokenizer.json`` has a WordPiece, or is missing beside a ``vocab.txt``."""
    if not description:
        return checkpoint.has(_FILE)
    model = description.get("model")
    return isinstance(model, dict) and model.get("type") == "WordPiece"


def word_piece_keys(description: Mapping[str, Any], checkpoint: Checkpoint, rows: int) -> dict[str, Any]:
    """All keys below ``tokenizer.ggml``, with `rows` tokens. Raises `Unsupported` and `InvalidModelFile`."""
    named = checkpoint.optional_json("tokenizer_config.json")
    if description:
        try:
            model = msgspec.convert(description["model"], _WordPiece)
        except msgspec.ValidationError as error:
            raise InvalidModelFile(f"tokenizer.json is malformed: model: {error}", "fetch it again") from error
        lowercase, strips = _normalizer(description.get("normalizer"))
    else:
        model = _WordPiece(_lines(checkpoint))
        lowercase, strips = named.get("do_lower_case", True) is True, None
    tokens, kinds = token_table(description, model.vocab, rows)
    roles = {}
    for role, (_, usual) in _ROLES.items():
        text = token_text(named.get(f"{role}_token")) or usual
        if text in model.vocab:
            roles[role] = model.vocab[text]
            kinds[roles[role]] = CONTROL
        elif role in _NEEDED:
            raise InvalidModelFile(f"the vocabulary does not have the token {text!r}", "fetch the tokenizer again")
    prefix = model.continuing_subword_prefix
    texts = [_marked(text, prefix) if kind == NORMAL else text for text, kind in zip(tokens, kinds, strict=True)]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.normalizer.lowercase": lowercase,
        "tokenizer.ggml.normalizer.strip_accents": lowercase if strips is None else strips,
        **{f"tokenizer.ggml.{name}": index for role, index in roles.items() for name in _ROLES[role][0]},
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_sep_token": True,
    }


def _marked(text: str, prefix: str) -> str:
    continues = prefix and text.startswith(prefix) and text != prefix
    return text.removeprefix(prefix) if continues else SPACE + text


def _normalizer(step: Any) -> tuple[bool, bool | None]:
    """Whether text becomes lower case, and whether it loses its accents; None: if it becomes lower case."""
    if step is None:
        return False, None
    if not isinstance(step, dict) or step.get("type") != "BertNormalizer":
        raise Unsupported(f"tokenizer.json prepares text with a step that llama.cpp does not have: {str(step)[:200]}")
    if step.get("handle_chinese_chars") is False:
        raise Unsupported("tokenizer.json does not separate Chinese characters, as llama.cpp always does")
    strips = step.get("strip_accents")
    return step.get("lowercase") is True, strips if isinstance(strips, bool) else None


def _lines(checkpoint: Checkpoint) -> dict[str, int]:
    try:
        lines = checkpoint.data(_FILE).decode().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidModelFile(f"{_FILE} is no text: {error}", "fetch it again") from error
    if lines[-1] == "":
        lines.pop()
    return {line.removesuffix("\r"): index for index, line in enumerate(lines)}
