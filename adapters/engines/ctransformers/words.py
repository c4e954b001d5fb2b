"""The ways in which this engine's vocabularies turn plain text into token ids, in pure Python.

ctransformers' own tokenizer is not used: it supports only SPM, adds a space to every part, shares its context with the
computation, overruns its buffer on text beyond ASCII, and recurses without bound on a long word of a legacy model.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from corral.adapters.engines.ctransformers.merging import merged
from corral.adapters.formats.gguf.pretokenizers import PreTokenizer
from corral.adapters.formats.gguf.vocabulary import SPACE, byte_level_text

__all__ = ("TextEncoder", "byte_pairs", "longest_matches", "sentence_pieces", "unigrams", "words_of")

TextEncoder = Callable[[str], list[int]]
"""Returns the ids of plain text, with nothing added. Thread-safe."""

_REMEMBERED_WORDS = 65_536
_UNKNOWN_COSTS = 10.0
_LEGACY_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_pairs(ids: Mapping[str, int], merges: Sequence[str], pretokenizer: PreTokenizer) -> TextEncoder:
    """Byte-level BPE as in GPT-2: words by patterns, then the merges in their order.

    `ids` maps byte-level spellings. A byte that the vocabulary lacks is dropped, as in llama.cpp.
    """
    ranks = {merge: float(place) for place, merge in enumerate(merges)}

    def rank(left: str, right: str) -> float | None:
        return ranks.get(f"{left} {right}")

    @functools.lru_cache(_REMEMBERED_WORDS)
    def word_ids(word: str) -> tuple[int, ...]:
        spelt = byte_level_text(word.encode())
        if pretokenizer.ignore_merges and spelt in ids:
            return (ids[spelt],)
        found: list[int] = []
        for piece in merged(spelt, rank):
            found.extend([ids[piece]] if piece in ids else [ids[one] for one in piece if one in ids])
        return tuple(found)

    def encode(text: str) -> list[int]:
        return [token_id for word in words_of(text, pretokenizer) for token_id in word_ids(word)]

    return encode


def sentence_pieces(
    ids: Mapping[str, int], scores: Sequence[float], bytes_of: Mapping[int, int], *, space_prefix: bool
) -> TextEncoder:
    """SPM: neighbours are merged if the result is a token, the highest score first.

    `bytes_of` maps a byte to its token, for characters that are not tokens. `space_prefix`: a space is put before the
    text.
    """

    def rank(left: str, right: str) -> float | None:
        token_id = ids.get(left + right)
        return None if token_id is None else -scores[token_id]

    def encode(text: str) -> list[int]:
        spelt = (" " + text if space_prefix else text).replace(" ", SPACE)
        found: list[int] = []
        for piece in merged(spelt, rank):
            if piece in ids:
                found.append(ids[piece])
            else:
                found.extend(bytes_of[byte] for byte in piece.encode() if byte in bytes_of)
        return found

    return encode


def longest_matches(ids: Mapping[bytes, int]) -> TextEncoder:
    """Repeatedly takes the longest token that a word begins with: all that the vocabulary of a legacy file allows.

    As ``gpt_tokenize`` in ggml's examples; a byte that is not a token is dropped. Words are split as in GPT-2.
    """
    pattern = _compiled(_LEGACY_WORDS)
    longest = max(map(len, ids), default=0)

    def word_ids(word: bytes) -> list[int]:
        found, start = list[int](), 0
        while start < len(word):
            for end in range(min(len(word), start + longest), start, -1):
                token_id = ids.get(word[start:end])
                if token_id is not None:
                    found.append(token_id)
                    start = end
                    break
            else:
                start += 1
        return found

    def encode(text: str) -> list[int]:
        return [token_id for word in pattern.findall(text) for token_id in word_ids(word.encode())]

    return encode


def unigrams(ids: Mapping[str, int], scores: Sequence[float], *, unknown: int) -> TextEncoder:
    """Takes the pieces with the highest total score for the whole text; characters without a token are `unknown`."""
    longest = max(map(len, ids), default=0)
    worst = min(scores, default=0.0) - _UNKNOWN_COSTS

    def encode(text: str) -> list[int]:
        spelt = text.replace(" ", SPACE)
        best = [0.0] + [-math.inf] * len(spelt)
        came: list[tuple[int, int]] = [(0, unknown)] * (len(spelt) + 1)
        for start in range(len(spelt)):
            for end in range(start + 1, min(len(spelt), start + longest) + 1):
                token_id = ids.get(spelt[start:end])
                if token_id is not None and best[start] + scores[token_id] > best[end]:
                    best[end], came[end] = best[start] + scores[token_id], (start, token_id)
            if best[start] + worst > best[start + 1]:
                best[start + 1], came[start + 1] = best[start] + worst, (start, unknown)
        found, end = list[int](), len(spelt)
        while end:
            end, token_id = came[end]
            found.append(token_id)
        return found[::-1]

    return encode


def words_of(text: str, pretokenizer: PreTokenizer) -> list[str]:
    """The words that limit merges; together they are the text."""
    words = [text]
    for pattern in map(_compiled, pretokenizer.patterns):
        parts: list[str] = []
        for word in words:
            done = 0
            for match in pattern.finditer(word):
                parts += (word[done : match.start()], match[0])
                done = match.end()
            parts.append(word[done:])
        words = [part for part in parts if part]
    return words


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\p\{(\w+)\}", lambda found: _category_in(found, pattern), pattern))


def _category_in(found: re.Match[str], pattern: str) -> str:
    r"""Replace ``\p{L}``, which `re` does not support, by ranges: bare within brackets, otherwise in brackets."""
    opened = pattern.rfind("[", 0, found.start())
    within = opened > pattern.rfind("]", 0, found.start())
    ranges = _category_ranges(found[1])
    return ranges if within else f"[{ranges}]"


@functools.cache
def _category_ranges(start_of_name: str) -> str:
    ranges, start = list[str](), None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code)).startswith(start_of_name)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(ranges)
