"""Finds out from a ``tokenizer.json`` how `tokenizers` treats long texts: whether they may be divided, and how few
tokens they can have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from corral.adapters.engine_kit.text_pieces import TextPieces, TokenSizes
from corral.adapters.engine_kit.token_ids import TextIds
from corral.adapters.formats.gguf.vocabulary import SPACE, bytes_of_byte_level

__all__ = ("component_types", "divided_text")

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KEEPING = frozenset({"Sequence", "Prepend", "Replace", "ByteLevel", "Split", "Digits", "Metaspace"})
"""Normalizers and pre-tokenizers that keep all of a text, if their settings agree."""


def divided_text(tokenizer: tokenizers.Tokenizer, described: Any, text_ids: TextIds) -> TextPieces:
    """Create the `TextPieces` for `text_ids`, which uses this tokenizer; `described` is the content of its file."""
    added = tokenizer.get_added_tokens_decoder()
    byte_level = "ByteLevel" in component_types(described, "pre_tokenizer", "decoder")
    pieces = []
    for text, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id in added:
            pieces.append(text.encode("utf-8", "replace"))
        elif byte_level:
            pieces.append(bytes_of_byte_level(text))
        else:
            byte = _BYTE.fullmatch(text)
            pieces.append(bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode("utf-8", "replace"))
    strips = any(token.lstrip or token.rstrip for token in added.values())
    sizes = TokenSizes(pieces, lossless=_lossless(described), free=b" \t\n\r\v\f" if strips else b"")
    return TextPieces(text_ids, sizes, [token.content for token in added.values()])


def component_types(described: Any, *parts: str) -> set[str]:
    """The types of these components of a tokenizer, with sequences expanded."""
    return {str(component.get("type")) for component in _components(described, *parts)}


def _components(described: Any, *parts: str) -> Iterator[Mapping[str, Any]]:
    waiting = [described.get(part) for part in parts] if isinstance(described, dict) else []
    while waiting:
        component = waiting.pop()
        if isinstance(component, dict):
            yield component
            for name in ("pretokenizers", "normalizers", "decoders"):
                inner = component.get(name)
                waiting.extend(inner if isinstance(inner, list) else [])


def _lossless(described: Any) -> bool:
    model = described.get("model") if isinstance(described, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("dropout"):
        return False
    return all(_keeps(component) for component in _components(described, "normalizer", "pre_tokenizer"))


def _keeps(component: Mapping[str, Any]) -> bool:
    kind = component.get("type")
    if kind == "Split":
        return component.get("behavior") != "Removed"
    if kind == "Replace":
        return component.get("pattern") == {"String": " "} and component.get("content") == SPACE
    return kind in _KEEPING
