"""Divides long lists of texts into groups, so that other requests get their turn and little is in memory at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from corral.core.ports.running import ModelInfo

__all__ = ("groups_of",)

_GROUP_TEXTS, _GROUP_CHARACTERS = 64, 131_072
"""The most of a list that is computed at once. A longer text goes alone."""

TextT = TypeVar("TextT", bound=str | tuple[int, ...])


def groups_of(texts: Sequence[TextT], info: ModelInfo) -> Iterator[list[TextT]]:
    """Consecutive texts that fit into a group, at least one each; an id counts as a character.

    Of engines that serve one request at a time, a group has one text, since all others wait until it is done.
    """
    one_at_a_time = info.parallel == 1 and "batch" not in info.features
    most = 1 if one_at_a_time else _GROUP_TEXTS
    group: list[TextT] = []
    characters = 0
    for text in texts:
        if group and (len(group) == most or characters + len(text) > _GROUP_CHARACTERS):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    yield group
