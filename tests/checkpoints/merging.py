"""Learns merges from a text, as byte pair encoding does (Sennrich et al., 2016)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

__all__ = ("learnt_merges",)

_Pair = tuple[str, str]
_Word = tuple[str, ...]


def learnt_merges(words: Iterable[_Word], count: int) -> list[_Pair]:
    """The most frequent pairs, one after the other; of equally frequent ones, the first in the alphabet."""
    times = Counter(words)
    pairs: Counter[_Pair] = Counter()
    homes: defaultdict[_Pair, set[_Word]] = defaultdict(set)

    def add(word: _Word, number: int) -> None:
        for pair in pairwise(word):
            pairs[pair] += number
            homes[pair].add(word)

    for word, number in times.items():
        add(word, number)
    merges: list[_Pair] = []
    while len(merges) < count:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in homes.pop(best):
            number = times.pop(word, 0)
            add(word, -number)
            merged = _with(word, best)
            times[merged] += number
            add(merged, number)
    return merges


def _with(word: _Word, pair: _Pair) -> _Word:
    found: list[str] = []
    for part in word:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return tuple(found)
