"""Writes a vocabulary as ``tokenizer.json`` of the library ``tokenizers``, and ``tokenizer_config.json``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corral.adapters.converters.onnx.vocabulary import OnnxVocabulary
from corral.adapters.formats.gguf.vocabulary import SPACE

__all__ = ("tokenizer_config", "tokenizer_json")


def tokenizer_json(vocabulary: OnnxVocabulary) -> dict[str, Any]:
    """The file's content. It gives the same tokens as llama.cpp for the same text."""
    parts = _byte_level(vocabulary) if vocabulary.kind == "bpe" else _sentence_pieces(vocabulary)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added_tokens(vocabulary)),
        "post_processor": _template(vocabulary),
        **parts,
    }


def tokenizer_config(vocabulary: OnnxVocabulary, context_length: int, chat_template: str | None) -> dict[str, Any]:
    """``tokenizer_config.json``: the names of special tokens, and the chat template."""

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else vocabulary.tokens[token_id]

    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "bos_token": text(vocabulary.bos),
        "eos_token": text(vocabulary.eos),
        "unk_token": text(vocabulary.unknown),
        "pad_token": text(vocabulary.padding),
    }
    return config if chat_template is None else {**config, "chat_template": chat_template}


def _byte_level(vocabulary: OnnxVocabulary) -> dict[str, Any]:
    pre = vocabulary.pre_tokenizer
    assert pre is not None
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": byte_level,
        "model": _model(vocabulary, list(_known_merges(vocabulary)), ignore_merges=pre.ignore_merges),
    }


def _sentence_pieces(vocabulary: OnnxVocabulary) -> dict[str, Any]:
    """SentencePiece's BPE: spaces become ``▁``, one is put before the text, and text without a token becomes bytes."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if vocabulary.add_space_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if vocabulary.add_space_prefix else []
    restore = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _model(vocabulary, list(_scored_merges(vocabulary)), byte_fallback=True),
    }


def _model(
    vocabulary: OnnxVocabulary,
    merges: list[tuple[str, str]],
    *,
    ignore_merges: bool = False,
    byte_fallback: bool = False,
) -> dict[str, Any]:
    unknown = vocabulary.tokens[vocabulary.unknown] if byte_fallback and vocabulary.unknown is not None else None
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _known_merges(vocabulary: OnnxVocabulary) -> Iterator[tuple[str, str]]:
    """The merges that produce an existing token: the library refuses others."""
    known = frozenset(vocabulary.tokens)
    for merge in vocabulary.merges:
        space = merge.find(" ", 1)
        left, right = merge[:space], merge[space + 1 :]
        if space > 0 and left in known and right in known and left + right in known:
            yield left, right


def _scored_merges(vocabulary: OnnxVocabulary) -> Iterator[tuple[str, str]]:
    """All ways to make a token from two others, those with the best scores first."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens) if index not in vocabulary.special}
    by_score = sorted(ids, key=lambda token: -vocabulary.scores[ids[token]])
    for token in by_score:
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        yield from sorted(
            ((left, right) for left, right in splits if left in ids and right in ids),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )


def _added_tokens(vocabulary: OnnxVocabulary) -> Iterator[dict[str, Any]]:
    for index in sorted(vocabulary.special | vocabulary.user_defined):
        yield {
            "id": index,
            "content": vocabulary.tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": index in vocabulary.special,
        }


def _template(vocabulary: OnnxVocabulary) -> dict[str, Any] | None:
    """The tokens put around a text that is encoded with special tokens."""
    before = vocabulary.bos if vocabulary.add_bos else None
    after = vocabulary.eos if vocabulary.add_eos else None
    if before is None and after is None:
        return None

    def piece(token_id: int | None) -> list[dict[str, Any]]:
        return [] if token_id is None else [{"SpecialToken": {"id": vocabulary.tokens[token_id], "type_id": 0}}]

    single = [*piece(before), {"Sequence": {"id": "A", "type_id": 0}}, *piece(after)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            vocabulary.tokens[token_id]: {
                "id": vocabulary.tokens[token_id],
                "ids": [token_id],
                "tokens": [vocabulary.tokens[token_id]],
            }
            for token_id in (before, after)
            if token_id is not None
        },
    }
