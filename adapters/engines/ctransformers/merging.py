"""Merges neighbouring pieces of a text, best pair first: the common core of BPE and SPM tokenizers."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

__all__ = ("merged",)


def merged(pieces: Sequence[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Merge until no neighbours can be merged, and return the pieces.

    `rank` says how good a pair is: lower is better, None is never merged; of equals, the leftmost is merged first.
    Takes time in O(n log n), so that a word of a million letters is not a problem.
    """
    texts = list(pieces)
    count = len(texts)
    after = list(range(1, count + 1))
    before = list(range(-1, count - 1))
    queue: list[tuple[float, int, str, str]] = []

    def consider(left: int, right: int) -> None:
        if left >= 0 and right < count:
            found = rank(texts[left], texts[right])
            if found is not None:
                heapq.heappush(queue, (found, left, texts[left], texts[right]))

    for left in range(count - 1):
        consider(left, left + 1)
    while queue:
        _, left, head, tail = heapq.heappop(queue)
        right = after[left]
        # A queued pair may have been merged with something else since.
        if right >= count or texts[left] != head or texts[right] != tail:
            continue
        texts[left] = head + tail
        texts[right] = ""
        after[left] = after[right]
        if after[right] < count:
            before[after[right]] = left
        consider(before[left], left)
        consider(left, after[left])
    return [text for text in texts if text]
