"""Accents of texts for WordPiece, which llama.cpp does not remove as BERT does.

llama.cpp replaces a character by the first one of its decomposition, and drops all marks: of a Korean syllable only the
first letter is left, and of Hindi no vowel sign. So texts are normalized before they reach it, and its own step is
switched off.

Source: BERT's BasicTokenizer; NFD and the category Mn are Unicode's.
"""

from __future__ import annotations

import ctypes
import unicodedata
from collections.abc import Callable

import llama_cpp as C

__all__ = ("accents_kept", "strips_accents", "without_accents")

_LOWERCASE = "tokenizer.ggml.normalizer.lowercase"
_STRIPS = "tokenizer.ggml.normalizer.strip_accents"
_WORD_PIECE = 3  # a kind of vocabularies


def accents_kept() -> ctypes.Array[C.llama_model_kv_override]:
    """The overrides with which a model is loaded, so that llama.cpp leaves accents alone; keep them until it is."""
    overrides: ctypes.Array[C.llama_model_kv_override] = (C.llama_model_kv_override * 2)()  # the last has no key
    overrides[0].tag = C.LLAMA_KV_OVERRIDE_TYPE_BOOL
    overrides[0].key = _STRIPS.encode()
    overrides[0].value.val_bool = False
    return overrides


def strips_accents(vocabulary_kind: int, metadata: Callable[[str], str | None]) -> bool:
    """Whether the texts of a model lose their accents: as its file says, otherwise if they become lower case."""
    if vocabulary_kind != _WORD_PIECE:
        return False
    stated = metadata(_STRIPS) or metadata(_LOWERCASE)
    return stated != "false"


def without_accents(text: str) -> str:
    """The text in NFD, without the marks that take no space of their own."""
    if text.isascii():
        return text
    return "".join(one for one in unicodedata.normalize("NFD", text) if unicodedata.category(one) != "Mn")
