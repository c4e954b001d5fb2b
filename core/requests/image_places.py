"""Where the images of a message stand in its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from corral.core.errors import InvalidRequest

__all__ = ("in_places", "refuse_repeated")

T = TypeVar("T")

_PLACE = "[img]"
_MOST_TIMES = 4
"""Each place is another copy of the file on its way to the engine."""


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


def refuse_repeated(places: int, images: int) -> None:
    """Raise `InvalidRequest` if a prompt repeats its `images` so often that it has this many `places` for them."""
    if places > _MOST_TIMES * images:
        raise InvalidRequest(
            f"the prompt has {places} places for {images} image{'s' if images > 1 else ''}; "
            f"an image may be repeated {_MOST_TIMES} times",
            "mention it once",
        )
