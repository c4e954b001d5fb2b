"""A tiny byte-level BPE tokenizer, as the ``tokenizer.json`` of Llama 3, Qwen 2 or GPT-2 has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tests.checkpoints.merging import learnt_merges
from tests.checkpoints.texts import LEARNT

__all__ = ("LLAMA3", "QWEN2", "byte_level_tokenizer")

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level_tokenizer(
    pattern: str, special: Sequence[str], *, bos: str | None = None, ignore_merges: bool = False
) -> dict[str, Any]:
    """Its vocabulary are the bytes, the merges, and the `special` tokens behind them. `bos` begins every text."""
    merges = _merges()
    texts = [*_spelling().values(), *dict.fromkeys("".join(pair) for pair in merges)]
    added = [
        {"id": len(texts) + place, "content": text, "special": True, "normalized": False, "single_word": False}
        | {"lstrip": False, "rstrip": False}
        for place, text in enumerate(special)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    framed: dict[str, Any] | None = None
    if bos is not None:
        number = len(texts) + list(special).index(bos)
        framed = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
        }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": framed,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "ignore_merges": ignore_merges,
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Learnt from pieces that no pre-tokenizer has cut, so that some reach over every border."""
    spelt, data = _spelling(), LEARNT.encode()
    pieces = (data[start : start + 12] for start in range(0, len(data), 12))
    return tuple(learnt_merges((tuple(spelt[byte] for byte in piece) for piece in pieces), 130))


@cache
def _spelling() -> dict[int, str]:
    """How each byte is written (GPT-2's ``bytes_to_unicode``)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}
