"""SentencePiece, as in Llama 2, Mistral, Gemma and Phi-3: ``tokenizer.model``, or the ``tokenizer.json`` that was made
of one, as the keys that llama.cpp reads.

llama.cpp merges the pair whose result has the highest score, as SentencePiece does. A ``tokenizer.json`` has a list of
merges instead, which is in the order of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.converters.safetensors.tokenizers.added_tokens import token_table
from corral.adapters.formats.gguf.vocabulary import BYTE, NORMAL, SPACE, UNKNOWN, USER_DEFINED
from corral.adapters.formats.sentencepiece import BPE, SentencePieceModel, read_sentencepiece
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("is_sentence_pieces", "sentence_piece_keys")

_NEVER = -1e9
"""The score of a token that no merge makes."""

_BYTE_TEXTS = {f"<0x{byte:02X}>" for byte in range(256)}


class _Bpe(msgspec.Struct, frozen=True):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]] = []
    unk_token: str | None = None


def is_sentence_pieces(description: Mapping[str, Any]) -> bool:
    """Whether this ``tokenizer.json`` was made of a SentencePiece vocabulary that merges: what it has no token for, it
    spells in bytes."""
    model = description.get("model")
    return isinstance(model, dict) and model.get("type", "BPE") == "BPE" and model.get("byte_fallback") is True


def sentence_piece_keys(description: Mapping[str, Any], model: bytes | None, rows: int) -> dict[str, Any]:
    """The keys of the vocabulary, with `rows` tokens: of ``tokenizer.json``, which may be empty, and of the content of
    ``tokenizer.model``, which may be None. Raises `Unsupported` and `InvalidModelFile`."""
    pieces = read_sentencepiece(model) if model is not None else None
    if pieces is not None:
        vocabulary, scores, kinds = _of_pieces(pieces, rows)
    else:
        vocabulary, scores, kinds = _of_merges(description)
    if not vocabulary.keys() >= _BYTE_TEXTS:
        raise Unsupported("the vocabulary does not have a token for every byte, which llama.cpp needs")
    tokens, types = token_table(description, vocabulary, rows)
    for index, text in enumerate(tokens):
        if types[index] == USER_DEFINED:
            tokens[index] = text.replace(SPACE, " ")  # llama.cpp looks for them before it replaces spaces
        elif text in kinds and vocabulary.get(text) == index:
            types[index] = kinds[text]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [scores.get(text, 0.0 if text in kinds else _NEVER) for text in tokens],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": _adds_prefix(description) if description else _prefix_of(pieces),
    }


def _of_pieces(model: SentencePieceModel, rows: int) -> tuple[dict[str, int], dict[str, float], dict[str, int]]:
    """The numbers, scores and kinds of texts. Kinds are those that differ from what ``tokenizer.json`` would say."""
    if model.kind != BPE:
        raise Unsupported("tokenizer.model is not of the kind BPE, the only one that llama.cpp merges by scores")
    vocabulary: dict[str, int] = {}
    for index, piece in enumerate(model.pieces[:rows]):
        if vocabulary.setdefault(piece.text, index) != index:
            raise InvalidModelFile(f"tokenizer.model has the piece {piece.text[:60]!r} twice", "fetch it again")
    scores = {piece.text: piece.score for piece in model.pieces}
    return vocabulary, scores, {piece.text: piece.kind for piece in model.pieces if piece.kind != NORMAL}


def _of_merges(description: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, float], dict[str, int]]:
    try:
        model = msgspec.convert(description["model"], _Bpe)
    except msgspec.ValidationError as error:
        raise InvalidModelFile(f"tokenizer.json is malformed: model: {error}", "fetch it again") from error
    scores: dict[str, float] = {}
    for rank, merge in enumerate(model.merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) and " " in merge else tuple(merge)[:2]
        scores.setdefault(left + right, -float(rank))
    kinds = dict.fromkeys(_BYTE_TEXTS & model.vocab.keys(), BYTE)
    if model.unk_token is not None:
        kinds[model.unk_token] = UNKNOWN
    return model.vocab, scores, kinds


def _adds_prefix(description: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text. Raises `Unsupported` for steps that llama.cpp does not have."""
    steps = [*_steps(description.get("normalizer"), "normalizers")]
    steps += _steps(description.get("pre_tokenizer"), "pretokenizers")
    added = False
    for step in steps:
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            added = True
        elif kind == "Metaspace" and step.get("replacement", SPACE) == SPACE:
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            added = added or scheme != "never"
        elif not _replaces_spaces(step) and not _splits_at_spaces(step):
            raise Unsupported(
                f"tokenizer.json prepares text with a step that llama.cpp does not have: {str(step)[:200]}"
            )
    return added


def _prefix_of(pieces: SentencePieceModel | None) -> bool:
    if pieces is None:
        return True
    if pieces.normalizes or pieces.remove_extra_whitespaces:
        raise Unsupported(
            "tokenizer.model changes characters or spaces before it cuts a text, which llama.cpp does not do"
        )
    return pieces.add_dummy_prefix


def _steps(step: Any, inner: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    if not isinstance(step, dict):
        raise InvalidModelFile("tokenizer.json is malformed: a step is no object", "fetch it again")
    if step.get("type") == "Sequence" and isinstance(step.get(inner), list):
        return [found for one in step[inner] for found in _steps(one, inner)]
    return [step]


def _replaces_spaces(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE


def _splits_at_spaces(step: Mapping[str, Any]) -> bool:
    """As Gemma's does after it has replaced all spaces, so that there are none."""
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}
