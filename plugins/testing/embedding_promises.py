"""Promises about vectors: one for each input, in order, and the same for the same text."""

from __future__ import annotations

import math
from array import array
from operator import mul

import pytest
from msgspec.structs import replace

from corral.core.requests.prompts import TokensPart
from corral.core.requests.vectors import rows
from corral.plugins.testing.engine_requests import LOST_IDS
from corral.plugins.testing.loaded import ModelUnderTest
from corral.plugins.testing.loading import LoadedContract, embedding, promise

__all__ = ("EmbeddingPromises",)

_TEXTS = ("a horse in the field", "the moon", "What is the capital of France?", "a horse in the field")
_ODD = (" ", "…", "日本語", "naïve café\n\n\t!", "word " * 25)


class EmbeddingPromises(LoadedContract):
    """Embeddings of one text and of several."""

    tolerance = 1e-4
    """How much the cosine of two vectors of the same text may differ from 1."""

    @promise("embedding")
    def test_one_vector_for_each_input(self, loaded: ModelUnderTest, task: str) -> None:
        """There are as many vectors as texts, and the tokens of all texts are counted."""
        for texts in (_TEXTS[:1], (*_TEXTS, *_TEXTS[1:3])):
            embedded = loaded.run(loaded.ask(embedding(*texts))).embedded
            assert embedded.vectors.count == len(texts)
            assert embedded.prompt_tokens >= len(texts)

    @promise("embedding")
    def test_vectors_come_in_order(self, loaded: ModelUnderTest, task: str) -> None:
        """The vectors are in the order of the texts."""
        together = self._vectors(loaded, *_TEXTS[:3])
        for place, text in enumerate(_TEXTS[:3]):
            [alone] = self._vectors(loaded, text)
            likeness = [_cosine(alone, other) for other in together]
            assert likeness.index(max(likeness)) == place

    @promise("embedding")
    def test_vectors_are_of_one_length(self, loaded: ModelUnderTest, task: str) -> None:
        """All vectors have the same number of dimensions, for long and short texts, alone or together."""
        answers = [loaded.run(loaded.ask(embedding(text))).embedded for text in (*_TEXTS, *_ODD)]
        answers.append(loaded.run(loaded.ask(embedding(*_TEXTS[:2]))).embedded)
        dimensions = {answer.vectors.dimensions for answer in answers}
        assert len(dimensions) == 1
        assert dimensions.pop() > 0

    @promise("embedding")
    def test_numbers_are_finite(self, loaded: ModelUnderTest, task: str) -> None:
        """No vector contains NaN or infinity, however unusual the text is."""
        for vector in self._vectors(loaded, *_ODD):
            assert all(math.isfinite(value) for value in vector)

    @promise("embedding")
    def test_the_same_text_has_the_same_vector(self, loaded: ModelUnderTest, task: str) -> None:
        """The same text has the same vector, within a request and in the next one; another text has another."""
        vectors = self._vectors(loaded, *_TEXTS) + self._vectors(loaded, _TEXTS[0])
        assert _cosine(vectors[0], vectors[3]) == pytest.approx(1.0, abs=self.tolerance)
        assert _cosine(vectors[0], vectors[4]) == pytest.approx(1.0, abs=self.tolerance)
        assert _cosine(vectors[0], vectors[1]) < 1.0 - self.tolerance

    @promise("embedding")
    def test_inputs_of_ids(self, loaded: ModelUnderTest, task: str) -> None:
        """The ids of a text have the vector of the text: an engine with a tokenizer gets long texts as ids."""
        self.require(loaded, "tokenize")
        request = embedding(*_TEXTS[:2])
        ids = loaded.run(loaded.model.tokenize(request.inputs))
        both = replace(request, inputs=(*request.inputs, *((TokensPart(ids=one),) for one in ids)))
        vectors = list(rows(loaded.run(loaded.ask(both)).embedded.vectors))
        for one, other in zip(vectors[:2], vectors[2:], strict=True):
            assert _cosine(one, other) == pytest.approx(1.0, abs=self.tolerance), LOST_IDS

    @staticmethod
    def _vectors(loaded: ModelUnderTest, *texts: str) -> list[array[float]]:
        return list(rows(loaded.run(loaded.ask(embedding(*texts))).embedded.vectors))


def _cosine(one: array[float], other: array[float]) -> float:
    product: float = sum(map(mul, one, other))
    return product / ((math.hypot(*one) * math.hypot(*other)) or 1.0)
