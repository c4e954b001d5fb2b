"""Where the images of a message stand in its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ("in_places",)

T = TypeVar("T")

_PLACE = "[img]"


def in_places(content: str, images: Sequence[T]) -> list[str | T]:
    """The text in pieces with the images between them: in place of each ``[img]``, in order, as in Ollama. Images that
    are left stand in front of the text.
    """
    texts = content.split(_PLACE, len(images))
    placed = len(texts) - 1
    pieces: list[str | T] = [*images[placed:]]
    for text, image in zip(texts, images[:placed], strict=False):
        pieces += (text, image)
    return [*pieces, texts[-1]]
