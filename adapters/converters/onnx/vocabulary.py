"""Reads a GGUF header's vocabulary: tokens, their kinds, how text becomes them, and which end an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.vocabulary import ENDING_TEXTS
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.values import Value

__all__ = ("Vocabulary", "read_vocabulary")

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Of llama.cpp's ``llama_token_type``; the others are ordinary tokens."""


class Vocabulary(Value, frozen=True, kw_only=True):
    """`special` are control and unknown tokens, `user_defined` those that are found in any text. Ids throughout.

    `kind` ``bpe`` is byte-level with `merges` and a `pre_tokenizer`; ``spm`` is SentencePiece's with `scores`.
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


def read_vocabulary(tensors: GgufTensors) -> Vocabulary:
    """Raises `InvalidModelFile` for a vocabulary that is missing or at odds with itself, `Unsupported` for a kind."""
    pairs = tensors.pairs
    tokens = tuple(_strings(tensors, "tokenizer.ggml.tokens"))
    if len(set(tokens)) != len(tokens):
        twice = next(token for index, token in enumerate(tokens) if token in tokens[:index])
        raise InvalidModelFile(f"the token {twice!r} is in the vocabulary twice", "convert the model again")
    types = tensors.array("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) < len(tokens):
        raise InvalidModelFile(f"{len(tokens)} tokens and {len(types)} token types")
    model = pairs.get("tokenizer.ggml.model")
    if model == "gpt2":
        special = _special_ids(pairs, len(tokens))
        text = _byte_level(tensors)
    elif model == "llama":
        special = {"bos": 1, "eos": 2, "unknown": 0} | _special_ids(pairs, len(tokens))
        text = _sentence_pieces(tensors, len(tokens))
    else:
        raise Unsupported(f"the tokenizer model {model!r} cannot be converted; gpt2 and llama can")
    ends = {index for index, token in enumerate(tokens) if token in ENDING_TEXTS}
    eos = special.get("eos")
    others = ends | {special[name] for name in ("eot", "eom") if name in special}
    ordered = ([] if eos is None else [eos]) + sorted(others - {eos})
    control = {index for index, kind in enumerate(types[: len(tokens)]) if kind in (_UNKNOWN, _CONTROL)}
    return Vocabulary(
        tokens=tokens,
        special=frozenset(control | ends),
        user_defined=frozenset(i for i, kind in enumerate(types[: len(tokens)]) if kind == _USER_DEFINED) - ends,
        bos=special.get("bos"),
        eos=eos,
        unknown=special.get("unknown"),
        padding=special.get("padding", eos),
        ends=tuple(ordered),
        add_eos=bool(pairs.get("tokenizer.ggml.add_eos_token", False)),
        **text,
    )


def _byte_level(tensors: GgufTensors) -> dict[str, Any]:
    pre = tensors.pairs.get("tokenizer.ggml.pre", "default")
    found = PRE_TOKENIZERS.get(pre)
    if found is None:
        raise Unsupported(
            f"the pre-tokenizer {pre!r} is not known, and the wrong one would make other tokens of the same text; "
            f"known are {', '.join(PRE_TOKENIZERS)}"
        )
    return {
        "kind": "bpe",
        "merges": tuple(_strings(tensors, "tokenizer.ggml.merges")),
        "pre_tokenizer": found,
        "add_bos": bool(tensors.pairs.get("tokenizer.ggml.add_bos_token", found.add_bos)),
    }


def _sentence_pieces(tensors: GgufTensors, count: int) -> dict[str, Any]:
    scores = tensors.array("tokenizer.ggml.scores")
    if scores is None or len(scores) < count:
        raise InvalidModelFile(f"{count} tokens and {len(scores or ())} scores", "convert the model again")
    return {
        "kind": "spm",
        "scores": tuple(float(score) for score in scores[:count]),
        "add_bos": bool(tensors.pairs.get("tokenizer.ggml.add_bos_token", True)),
        "add_space_prefix": bool(tensors.pairs.get("tokenizer.ggml.add_space_prefix", True)),
    }


def _special_ids(pairs: Mapping[str, Any], count: int) -> dict[str, int]:
    """Special tokens that the header names; an id outside the vocabulary is left out, as llama.cpp does."""
    found = {
        name: pairs.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "unknown", "padding", "eot", "eom")
    }
    return {name: value for name, value in found.items() if isinstance(value, int) and 0 <= value < count}


def _strings(tensors: GgufTensors, key: str) -> list[str]:
    found = tensors.array(key)
    if not found or not isinstance(found[0], str):
        raise InvalidModelFile(f"the header has no strings under {key}", "convert the model again")
    return found
