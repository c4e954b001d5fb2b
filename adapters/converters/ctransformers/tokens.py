"""Makes a token table for llama.cpp of September 2023: SPM pieces with scores, and a token for each byte."""

from __future__ import annotations

from typing import Any

from corral.adapters.formats.gguf.vocabulary import BYTE, NORMAL, SPACE, GgufVocabulary
from corral.core.errors import Unsupported

__all__ = ("KEPT_PREFIX", "spm_table")

KEPT_PREFIX = "corral."
"""The prefix of the keys that hold the original vocabulary, which Corral encodes prompts with."""

_PRINTABLE = range(0x21, 0x7F)
_NEVER = -1e9
"""The score of tokens that no merge produces."""


def spm_table(vocabulary: GgufVocabulary) -> dict[str, Any]:
    """The ``tokenizer.ggml.*`` pairs without named ids. An SPM vocabulary stays as it is, byte-level BPE is rewritten.

    A piece's score is the negated index of the first merge that produces it, so that earlier merges win as in BPE. What
    SPM cannot express is lost: how words are split, and which two halves a piece is made of. Raises `Unsupported`.
    """
    if vocabulary.model == "llama":
        if not vocabulary.scores or "<0x0A>" not in vocabulary.texts:
            raise Unsupported("its SPM vocabulary has no scores, or no token for a newline")
        return {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": list(vocabulary.texts),
            "tokenizer.ggml.scores": list(vocabulary.scores),
            "tokenizer.ggml.token_type": list(vocabulary.kinds) or [NORMAL] * len(vocabulary.texts),
        }
    places: dict[str, int] = {}
    for place, merge in enumerate(vocabulary.merges):
        places.setdefault("".join(merge.split(" ", 1)), place)
    texts: list[bytes | str] = []
    kinds: list[int] = []
    scores: list[float] = []
    for token_id, (text, piece) in enumerate(zip(vocabulary.texts, vocabulary.pieces(), strict=True)):
        kind = vocabulary.kind(token_id)
        if kind == NORMAL and len(piece) == 1 and piece != b" " and piece[0] not in _PRINTABLE:
            texts.append(f"<0x{piece[0]:02X}>")
            kind = BYTE
        else:
            texts.append(piece.replace(b" ", SPACE.encode()) if kind == NORMAL else text)
        kinds.append(kind)
        scores.append(-1.0 - places[text] if text in places else _NEVER)
    if "<0x0A>" not in texts:
        raise Unsupported("its vocabulary has no token for a newline, which ctransformers needs")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        **_kept(vocabulary),
    }


def _kept(vocabulary: GgufVocabulary) -> dict[str, Any]:
    """The original vocabulary, under keys that llama.cpp ignores."""
    stem = f"{KEPT_PREFIX}tokenizer.ggml."
    pairs: dict[str, Any] = {
        f"{stem}model": vocabulary.model,
        f"{stem}pre": vocabulary.pre,
        f"{stem}tokens": list(vocabulary.texts),
        f"{stem}token_type": [vocabulary.kind(token_id) for token_id in range(len(vocabulary.texts))],
        f"{stem}merges": list(vocabulary.merges),
    }
    for name, value in (("add_bos_token", vocabulary.add_bos), ("add_space_prefix", vocabulary.add_space_prefix)):
        if value is not None:
            pairs[stem + name] = value
    for name, token_id in vocabulary.named.items():
        pairs[f"{stem}{name}_token_id"] = token_id
    return pairs
