"""Models whose vectors break one promise each."""

from __future__ import annotations

import math
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from corral.core.ports.running import RunningModel
from corral.core.requests.outputs import Embedded, Output, Vectors
from corral.core.requests.prompts import prompt_text
from corral.core.requests.requests import EmbedRequest, Request
from corral.core.requests.vectors import rows
from corral.plugins.testing.broken.sound import SoundModel

__all__ = ("VECTORS",)

Rows = list["array[float]"]


class BrokenEmbedder(SoundModel):
    """Returns vectors that `altered` changes."""

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                if isinstance(request, EmbedRequest) and isinstance(output, Embedded):
                    texts = [prompt_text(prompt) for prompt in request.inputs]
                    output = replace(output, vectors=_vectors(self.altered(texts, list(rows(output.vectors)))))
                yield output

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        raise NotImplementedError


class Stingy(BrokenEmbedder):
    """Drops the last of six vectors."""

    breaks = "test_one_vector_for_each_input"

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        return vectors[:5]


class Backwards(BrokenEmbedder):
    """Returns the last vector first."""

    breaks = "test_vectors_come_in_order"

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        return vectors[::-1]


class Growing(BrokenEmbedder):
    """Gives long texts one more dimension."""

    breaks = "test_vectors_are_of_one_length"

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        return [vector + array("f", [1.0]) for vector in vectors] if max(map(len, texts)) > 100 else vectors


class Undefined(BrokenEmbedder):
    """Divides by zero if a text is not English."""

    breaks = "test_numbers_are_finite"

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        nothing = [array("f", [math.nan] * len(vector)) for vector in vectors]
        return [vectors[i] if text.isascii() else nothing[i] for i, text in enumerate(texts)]


class Drifting(BrokenEmbedder):
    """Gives the same text a different vector the next time."""

    breaks = "test_the_same_text_has_the_same_vector"

    def __init__(self, inner: RunningModel) -> None:
        super().__init__(inner)
        self._odd = False

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        self._odd = not self._odd
        return [array("f", [vector[0] + self._odd, *vector[1:]]) for vector in vectors]


class Illiterate(BrokenEmbedder):
    """Takes every input of ids for an empty text."""

    breaks = "test_inputs_of_ids"

    def altered(self, texts: list[str], vectors: Rows) -> Rows:
        empty = [array("f", [1.0] * len(vector)) for vector in vectors]
        return [vectors[i] if text else empty[i] for i, text in enumerate(texts)]


def _vectors(vectors: Rows) -> Vectors:
    return Vectors(dimensions=len(vectors[0]), float32=b"".join(vector.tobytes() for vector in vectors))


VECTORS: tuple[type[SoundModel], ...] = (Stingy, Backwards, Growing, Undefined, Drifting, Illiterate)
