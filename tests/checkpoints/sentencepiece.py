"""A tiny SentencePiece vocabulary, as ``tokenizer.model`` and as the ``tokenizer.json`` that is made of it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from tests.checkpoints.merging import learnt_merges
from tests.checkpoints.texts import LEARNT

__all__ = ("SentencePieces", "sentence_pieces")

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # sentencepiece_model.proto
_BPE = 2


class SentencePieces(NamedTuple):
    """`pieces` are text, score and type of every token. `added` are control tokens that only ``tokenizer.json`` has.

    `prefix`: every text begins with a space. `bos` is the token that begins every text.
    """

    pieces: tuple[tuple[str, float, int], ...]
    prefix: bool
    bos: str
    added: tuple[str, ...] = ()

    def model(self) -> bytes:
        """``tokenizer.model``: a message of protocol buffers."""
        pieces = b"".join(
            _field(1, _field(1, text.encode()) + _float(2, score) + _number(3, kind))
            for text, score, kind in self.pieces
        )
        trainer = _number(3, _BPE) + _number(35, 1)
        normalizer = _field(1, b"identity") + _number(3, int(self.prefix)) + _number(4, 0)
        return pieces + _field(2, trainer) + _field(3, normalizer)

    def json(self) -> dict[str, Any]:
        """``tokenizer.json``, with the merges that Hugging Face derives from the scores."""
        texts = {text: number for number, (text, _, _) in enumerate(self.pieces)}
        scores = {text: score for text, score, kind in self.pieces if kind in (_NORMAL, _USER_DEFINED)}
        merges = [
            (left, right)
            for text in sorted(scores, key=lambda text: -scores[text])
            for left, right in _halves(text, texts)
        ]
        special = [text for text, _, kind in self.pieces if kind in (_CONTROL, _UNKNOWN)]
        defined = [text for text, _, kind in self.pieces if kind == _USER_DEFINED]
        numbers = texts | {text: len(texts) + place for place, text in enumerate(self.added)}
        added = [
            {"id": numbers[text], "content": text, "special": text not in defined, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
            for text in (*special, *defined, *self.added)
        ]
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        prepend = {"type": "Prepend", "prepend": "▁"}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": sorted(added, key=lambda token: str(token["id"]).zfill(9)),
            "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if self.prefix else replace,
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": self.bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {self.bos: {"id": self.bos, "ids": [texts[self.bos]], "tokens": [self.bos]}},
            },
            "decoder": None,
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": texts,
                "merges": [list(pair) for pair in merges],
            },
        }


def sentence_pieces(
    control: Sequence[str], *, prefix: bool, bos: str, defined: Sequence[str] = (), added: Sequence[str] = ()
) -> SentencePieces:
    """A vocabulary that begins with the `control` tokens, one of which is ``<unk>``, and those that users `defined`.

    Then come the bytes, the pieces that were learnt, and the letters. As in SentencePiece, a score is the negated rank.
    """
    learnt, letters = _learnt()
    pieces = [(text, 0.0, _UNKNOWN if text == "<unk>" else _CONTROL) for text in control]
    pieces += [(text, 0.0, _USER_DEFINED) for text in defined]
    pieces += [(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]
    own = [text for text in (*learnt, *letters) if text not in defined]
    pieces += [(text, -float(rank), _NORMAL) for rank, text in enumerate(own)]
    return SentencePieces(tuple(pieces), prefix, bos, tuple(added))


@cache
def _learnt() -> tuple[tuple[str, ...], tuple[str, ...]]:
    spaced = LEARNT.replace(" ", "▁")
    words = (tuple(spaced[start : start + 10]) for start in range(0, len(spaced), 10))
    merges = learnt_merges(words, 130)
    letters = sorted(set(spaced) - set("«»日\t"))  # those left out are spelt in bytes
    return tuple(dict.fromkeys("".join(pair) for pair in merges if "日" not in "".join(pair))), tuple(letters)


def _halves(text: str, texts: Mapping[str, int]) -> list[tuple[str, str]]:
    found = [(text[:place], text[place:]) for place in range(1, len(text))]
    found = [(left, right) for left, right in found if left in texts and right in texts]
    return sorted(found, key=lambda pair: (texts[pair[0]], texts[pair[1]]))


def _varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return found + bytes((value,))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
