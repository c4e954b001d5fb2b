"""Finds the tokens that a model was trained to fill in the middle of a text with (FIM): prefix, suffix and middle; and
those before a repository's name and its files.

The header may name them (``tokenizer.ggml.fim_pre_token_id`` and so on, or by their older keys). Otherwise they are
known by their spelling, as in llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from corral.adapters.formats.gguf.header import Array, HeaderFile
from corral.adapters.formats.gguf.tables import STRING

__all__ = ("fim_ids", "repository_ids")

_KEYS = (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))
_SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
)
_REPOSITORY_KEYS = (("fim_rep",), ("fim_sep",))
_REPOSITORY_SPELLINGS = (("<|repo_name|>", "<|file_sep|>"), ("<|fim_repo|>", "<|file_sep|>"))
_LARGEST_BYTES = 64 * 1024 * 1024


def fim_ids(file: HeaderFile, pairs: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The ids of the three tokens, or None if the vocabulary does not have all of them."""
    found = _ids(file, pairs, _KEYS, _SPELLINGS)
    return None if found is None else (found[0], found[1], found[2])


def repository_ids(file: HeaderFile, pairs: Mapping[str, Any]) -> tuple[int, int] | None:
    """The ids of the tokens before a repository's name and before each file, or None if one is missing."""
    found = _ids(file, pairs, _REPOSITORY_KEYS, _REPOSITORY_SPELLINGS)
    return None if found is None else (found[0], found[1])


def _ids(
    file: HeaderFile, pairs: Mapping[str, Any], keys: Sequence[Sequence[str]], spellings: Sequence[Sequence[str]]
) -> list[int] | None:
    tokens = pairs.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.element_type != STRING:
        return None
    named = [found for names in keys if (found := _named(pairs, names, tokens.length)) is not None]
    if len(named) == len(keys):
        return named
    data = file.bytes_of(tokens, limit_bytes=_LARGEST_BYTES)
    for spelling in spellings:
        places = [data.find(struct.pack("<Q", len(text)) + text) for text in map(str.encode, spelling)]
        if min(places) >= 0:
            return _indices(data, places)
    return None


def _named(pairs: Mapping[str, Any], names: Sequence[str], count: int) -> int | None:
    for name in names:
        found = pairs.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < count:
            return found
    return None


def _indices(data: bytes, places: list[int]) -> list[int] | None:
    """The numbers of the strings that begin at these places; None if one of them is in the middle of a string."""
    found: dict[int, int] = {}
    position = index = 0
    last = max(places)
    while position <= last:
        if position in places:
            found[position] = index
        position += 8 + int(struct.unpack_from("<Q", data, position)[0])
        index += 1
    if len(found) < len(set(places)):
        return None
    return [found[place] for place in places]
