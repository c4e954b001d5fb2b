"""A prompt as cells of the KV cache: tokens, and images, which are computed from vectors in calls of their own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from corral.adapters.engine_kit.prefixes.scoped_keys import scoped_keys
from corral.adapters.engines.llama_cpp.image_cells import ImageCells
from corral.adapters.engines.llama_cpp.image_encoder import ImageEncoder
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.errors import PromptTooLong, Unsupported
from corral.core.requests.prompts import MediaPart, Prompt, has_media

__all__ = ("PromptCells", "Segment", "prompt_cells")


class Segment(NamedTuple):
    """Cells from `start` to `end` that may be computed in one call: text, or one image."""

    start: int
    end: int
    image: ImageCells | None = None


class PromptCells:
    """`keys` has a number for what each cell holds: prompts that begin with the same keys have the same prefix.

    A token's key is its id. Tokens of a segment that is shorter than `smallest_chunk` have other keys: they are
    computed as fewer rows, and may come out slightly different from the same tokens among others.
    """

    __slots__ = ("_ends", "_ids", "_smallest_chunk", "keys", "segments")

    def __init__(
        self,
        ids: list[int],
        images: Sequence[tuple[int, ImageCells]] = (),
        *,
        smallest_chunk: int,
        scope: str = "",
    ) -> None:
        """`ids` has the image's key for each cell of an image; `images` are with the index of their first cell. Prompts
        of different scopes have no prefix in common.
        """
        self._ids = ids
        self._smallest_chunk = smallest_chunk
        self.segments = _segments(len(ids), images)
        self._ends = [segment.end for segment in self.segments]
        self.keys = ids
        short = [one for one in self.segments if one.image is None and one.end - one.start < smallest_chunk]
        if short:
            self.keys = list(ids)
            for one in short:
                self.keys[one.start : one.end] = [-1 - token for token in ids[one.start : one.end]]
        self.keys = scoped_keys(self.keys, scope)

    @property
    def has_images(self) -> bool:
        return any(segment.image is not None for segment in self.segments)

    @property
    def text_ids(self) -> list[int]:
        """The ids of all tokens."""
        return [token_id for token_id in self._ids if token_id >= 0] if self.has_images else self._ids

    def ids(self, start: int, end: int) -> list[int]:
        """The ids of tokens within one segment of text."""
        return self._ids[start:end]

    def segment(self, at: int) -> Segment:
        """The segment that the cell belongs to."""
        return self.segments[bisect_right(self._ends, at)]

    def reusable(self, shared: int) -> int:
        """The longest prefix of at most `shared` cells after which the rest is computed as if nothing were cached.

        At least the last cell is left, for its logits. No prefix ends within an image that is one whole, or leaves less
        than the smallest chunk of a segment.
        """
        shared = min(shared, len(self.keys) - 1)
        if shared <= 0:
            return 0
        start, end, image = self.segment(shared)
        if start < shared and image is not None and not image.divisible:
            return start
        if start < shared and end - shared < self._smallest_chunk:
            return max(start, end - self._smallest_chunk)
        return shared


def prompt_cells(
    prompt: Prompt,
    tokenizer: LlamaTokenizer,
    encoder: ImageEncoder | None,
    *,
    smallest_chunk: int,
    num_ctx: int,
    most_together: int,
    scope: str,
) -> PromptCells:
    """Tokenize texts and encode images. `most_together` is how many cells fit into one call.

    Raises what the tokenizer and the encoder raise, `Unsupported` for images that the model cannot take, and
    `PromptTooLong` before an image for which `num_ctx` leaves no room, since encoding takes long.
    """
    if not has_media(prompt):
        return PromptCells(tokenizer.tokens(prompt), smallest_chunk=smallest_chunk, scope=scope)
    if encoder is None:
        raise Unsupported("images: this model has no projector that llama.cpp supports")
    ids: list[int] = []
    images: list[tuple[int, ImageCells]] = []
    for part in prompt:
        if not isinstance(part, MediaPart):
            ids += tokenizer.bare_tokens((part,))
            continue
        if len(ids) >= num_ctx:
            raise PromptTooLong(
                f"the prompt of {len(ids)} tokens, before its last images, is longer than the context of {num_ctx}",
                "send fewer images, shorten the prompt, or raise num_ctx",
            )
        for piece in encoder.pieces(part.data):
            if not isinstance(piece, ImageCells):
                ids += piece
                continue
            if not piece.causal and piece.count > most_together:
                raise Unsupported(
                    f"images: one of {piece.count} tokens must be computed at once, and at most {most_together} can be",
                    "raise num_batch, or send a smaller image",
                )
            images.append((len(ids), piece))
            ids += [piece.key] * piece.count
    shift = tokenizer.surround(ids)
    moved = [(start + shift, image) for start, image in images]
    return PromptCells(ids, moved, smallest_chunk=smallest_chunk, scope=scope)


def _segments(length: int, images: Sequence[tuple[int, ImageCells]]) -> tuple[Segment, ...]:
    segments = []
    at = 0
    for start, image in images:
        if start > at:
            segments.append(Segment(at, start))
        at = start + image.count
        segments.append(Segment(start, at, image))
    if at < length:
        segments.append(Segment(at, length))
    return tuple(segments)
