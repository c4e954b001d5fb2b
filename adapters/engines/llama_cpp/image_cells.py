"""What an image becomes in a prompt: token ids, and cells of the KV cache that are computed from vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ("ImageCells", "ImagePiece")


@dataclass(frozen=True, slots=True)
class ImageCells:
    """A part of an image that is computed from vectors instead of token ids, one per cell of the KV cache.

    `key` stands for each of its cells where prompts are compared; it is negative, and follows from the image's content.
    The position of a cell is `offsets` plus, where `moves` is 1, the position of the first cell; both have a row for
    each section of a position, and are None if positions are consecutive. What follows stands `span` positions after
    the first cell. If not `causal`, all cells see each other, so that they must be computed together.
    """

    key: int
    vectors: npt.NDArray[np.float32]
    span: int
    causal: bool
    offsets: npt.NDArray[np.int32] | None = None
    moves: npt.NDArray[np.int32] | None = None

    @property
    def count(self) -> int:
        return len(self.vectors)

    @property
    def divisible(self) -> bool:
        """Whether a prefix may end within it: llama.cpp's memory is cut by position."""
        return self.causal and self.span == self.count


ImagePiece = Sequence[int] | ImageCells
"""An image becomes several: token ids around it and between its parts, and vectors."""
