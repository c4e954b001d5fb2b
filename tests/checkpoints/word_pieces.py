"""A tiny WordPiece vocabulary, as the ``tokenizer.json`` and ``vocab.txt`` of BERT have it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from tests.checkpoints.texts import LEARNT, WRITINGS

__all__ = ("vocabulary_text", "word_piece_tokenizer")

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def word_piece_tokenizer(*, lowercase: bool = True) -> dict[str, Any]:
    """Whole words, the ends of others, and letters; texts are framed by ``[CLS]`` and ``[SEP]``. Lower case also has no
    accents, and longer texts than 16 tokens are cut, as a sentence encoder's tokenizer may say."""
    texts = _vocabulary(lowercase=lowercase)
    cls, sep = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("[CLS]", "[SEP]"))
    return {
        "version": "1.0",
        "truncation": {"max_length": 16, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, "special": True, "normalized": False, "single_word": False}
            | {"lstrip": False, "rstrip": False}
            for number, text in enumerate(_SPECIAL)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep],
            "pair": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep, {"Sequence": {"id": "B", "type_id": 1}}, sep],
            "special_tokens": {
                text: {"id": text, "ids": [_SPECIAL.index(text)], "tokens": [text]} for text in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {text: number for number, text in enumerate(texts)},
        },
    }


def vocabulary_text(*, lowercase: bool = True) -> bytes:
    """``vocab.txt``: a token in each line."""
    return "".join(f"{text}\n" for text in _vocabulary(lowercase=lowercase)).encode()


def _vocabulary(*, lowercase: bool) -> list[str]:
    text = "\n".join((LEARNT, *WRITINGS))
    if lowercase:
        bare = (letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")
        text = "".join(bare).lower()
    words = sorted(set(re.findall(r"\w+", text)))
    letters = sorted({letter for letter in text if not letter.isspace()})
    pieces = [*words[::3], *(f"##{word[3:]}" for word in words[1::3] if len(word) > 4), *letters]
    inner = (letter for letter in letters if unicodedata.category(letter)[0] in "LMN")
    pieces += [f"##{letter}" for letter in inner if letter != "z"]  # z has none
    return list(dict.fromkeys((*_SPECIAL, *pieces)))
