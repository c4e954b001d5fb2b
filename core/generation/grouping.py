"""Divides long lists of texts into groups, so that other requests get their turn and little is in memory at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from corral.core.ports.running import ModelInfo

__all__ = ("groups_of",)

TextT = TypeVar("TextT", bound=str | tuple[int, ...])


def groups_of(texts: Sequence[TextT], info: ModelInfo, *, most: int, most_characters: int) -> Iterator[list[TextT]]:
    """Consecutive texts, at most `most` in a group and so many characters; an id counts as one. A longer text is alone.

    Of engines that serve one request at a time, a group has one text, since all others wait until it is done.
    """
    one_at_a_time = info.parallel == 1 and "batch" not in info.features
    most = 1 if one_at_a_time else most
    group: list[TextT] = []
    characters = 0
    for text in texts:
        if group and (len(group) == most or characters + len(text) > most_characters):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    yield group
