"""Reads a GGUF vocabulary: how text becomes tokens, which tokens are put around it, and which end an answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from corral.adapters.formats.gguf.vocabulary import USER_DEFINED, GgufVocabulary
from corral.adapters.formats.gguf.vocabulary import read_vocabulary as read_gguf_vocabulary
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.values import Value

__all__ = ("OnnxVocabulary", "read_vocabulary")

_SPM_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""The default special tokens of a SentencePiece vocabulary, used if its header names none, as in llama.cpp."""


class OnnxVocabulary(Value, frozen=True, kw_only=True):
    """Tokens are ids. `special` are control and unknown tokens, `user_defined` those that are found in any text.

    `kind` ``bpe`` is byte-level with `merges` and a `pre_tokenizer`; ``spm`` is SentencePiece's with `scores`. `ends`
    are the tokens that end an answer, EOS first.
    """

    kind: Literal["bpe", "spm"]
    tokens: tuple[str, ...]
    special: frozenset[int]
    user_defined: frozenset[int]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    pre_tokenizer: PreTokenizer | None = None
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    padding: int | None = None
    ends: tuple[int, ...] = ()
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False


def read_vocabulary(path: Path) -> OnnxVocabulary:
    """Raises `InvalidModelFile` for a missing or contradictory vocabulary, `Unsupported` for an unknown kind."""
    found = read_gguf_vocabulary(path)
    if found is None:
        raise InvalidModelFile(f"{path}: the header has no tokenizer.ggml.tokens", "convert the model again")
    if len(set(found.texts)) != len(found.texts):
        twice = next(text for text, count in Counter(found.texts).items() if count > 1)
        raise InvalidModelFile(f"{path}: the token {twice!r} is in the vocabulary twice", "convert the model again")
    if found.model == "gpt2":
        kind, ids = _byte_level(path, found), dict(found.named)
    elif found.model == "llama":
        kind, ids = _sentence_pieces(path, found), _SPM_IDS | dict(found.named)
    else:
        raise Unsupported(f"the tokenizer model {found.model!r} cannot be converted; gpt2 and llama can")
    eos = ids.get("eos")
    return OnnxVocabulary(
        tokens=found.texts,
        special=found.control_ids(),
        user_defined=found.ids_of(USER_DEFINED),
        bos=ids.get("bos"),
        eos=eos,
        unknown=ids.get("unknown"),
        padding=ids.get("padding", eos),
        ends=(*(() if eos is None else (eos,)), *sorted(found.ends() - {eos})),
        add_eos=bool(found.add_eos),
        **kind,
    )


def _byte_level(path: Path, found: GgufVocabulary) -> dict[str, Any]:
    pre = PRE_TOKENIZERS.get(found.pre or "default")
    if pre is None:
        raise Unsupported(
            f"the pre-tokenizer {found.pre!r} is unknown, and a wrong one would split text into other tokens; "
            f"supported: {', '.join(PRE_TOKENIZERS)}"
        )
    if not found.merges:
        raise InvalidModelFile(f"{path}: the header has no tokenizer.ggml.merges", "convert the model again")
    add_bos = pre.add_bos if found.add_bos is None else found.add_bos
    return {"kind": "bpe", "merges": found.merges, "pre_tokenizer": pre, "add_bos": add_bos}


def _sentence_pieces(path: Path, found: GgufVocabulary) -> dict[str, Any]:
    if not found.scores or len(found.texts) <= max(_SPM_IDS.values()):
        raise InvalidModelFile(
            f"{path}: {len(found.texts)} tokens and {len(found.scores)} scores", "convert the model again"
        )
    return {
        "kind": "spm",
        "scores": found.scores,
        "add_bos": found.add_bos is not False,
        "add_space_prefix": found.add_space_prefix is not False,
    }
