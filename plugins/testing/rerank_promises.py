"""Promises about scores of documents: one for each, in order, and the same for the same document."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from corral.core.errors import PromptTooLong
from corral.core.requests.prompts import TokensPart
from corral.core.requests.requests import RerankRequest
from corral.plugins.testing.engine_requests import LOST_IDS
from corral.plugins.testing.loaded import ModelUnderTest
from corral.plugins.testing.loading import LoadedContract, promise, reranking

__all__ = ("RerankPromises",)

_QUERY = "What is the capital of France?"
_DOCUMENTS = (
    "Paris is the capital of France, and its largest city.",
    "a horse in the field",
    "The capital of Italy is Rome, which is older than Paris.",
    "Paris is the capital of France, and its largest city.",
)
_ODD = ("", " ", "…", "日本語", "naïve café\n\n\t!", "word " * 25)
_SHORT_CONTEXT = 64


class RerankPromises(LoadedContract):
    """Scores of one document and of several."""

    score_tolerance = 1e-3
    """How much two scores of the same query and document may differ."""

    @promise("rerank")
    def test_one_score_for_each_document(self, loaded: ModelUnderTest, task: str) -> None:
        """There are as many scores as documents, and the tokens of all documents are counted."""
        for documents in (_DOCUMENTS[:1], (*_DOCUMENTS, *_DOCUMENTS[:2])):
            ranked = loaded.run(loaded.ask(reranking(_QUERY, *documents))).ranked
            assert len(ranked.scores) == len(documents)
            assert ranked.prompt_tokens >= len(documents)

    @promise("rerank")
    def test_scores_come_in_order(self, loaded: ModelUnderTest, task: str) -> None:
        """The scores are in the order of the documents: each document has the score that it has alone."""
        together = self._scores(loaded, reranking(_QUERY, *_DOCUMENTS[:3]))
        alone = [score for one in _DOCUMENTS[:3] for score in self._scores(loaded, reranking(_QUERY, one))]
        assert together == pytest.approx(alone, abs=self.score_tolerance)

    @promise("rerank")
    def test_scores_are_finite(self, loaded: ModelUnderTest, task: str) -> None:
        """No score is NaN or infinite, however unusual a document is; an empty one has a score, too."""
        assert all(map(math.isfinite, self._scores(loaded, reranking(_QUERY, *_ODD))))

    @promise("rerank")
    def test_the_same_document_has_the_same_score(self, loaded: ModelUnderTest, task: str) -> None:
        """The same document has the same score, within a request and when it is repeated; another has another."""
        request = reranking(_QUERY, *_DOCUMENTS)
        first, second = self._scores(loaded, request), self._scores(loaded, request)
        assert first[0] == pytest.approx(first[3], abs=self.score_tolerance)
        assert first == pytest.approx(second, abs=self.score_tolerance)
        assert first[0] != first[1]

    @promise("rerank")
    def test_a_score_is_about_the_query(self, loaded: ModelUnderTest, task: str) -> None:
        """The same document has another score for another query."""
        other = "Which animals live on a farm?"
        assert self._scores(loaded, reranking(_QUERY, *_DOCUMENTS[:3])) != pytest.approx(
            self._scores(loaded, reranking(other, *_DOCUMENTS[:3])), abs=self.score_tolerance
        )

    @promise("rerank")
    def test_a_document_beyond_the_context(self, loaded: ModelUnderTest, task: str) -> None:
        """If the model knows its context length, a document that does not fit is cut if `truncate` allows it;
        otherwise it raises `PromptTooLong`, and the next request is answered."""
        if loaded.info.context_length is None:
            pytest.skip("info.context_length is None: the model knows no limit, so none is tried")
        num_ctx = min(_SHORT_CONTEXT, loaded.info.context_length)
        request = replace(reranking("a horse", "word " * 4 * num_ctx), num_ctx=num_ctx)
        with pytest.raises(PromptTooLong):
            loaded.run(loaded.ask(replace(request, truncate=False)))
        assert len(self._scores(loaded, request)) == 1

    @promise("rerank")
    def test_documents_of_ids(self, loaded: ModelUnderTest, task: str) -> None:
        """The ids of a text have the score of the text: an engine with a tokenizer gets long texts as ids."""
        self.require(loaded, "tokenize")
        request = reranking(_QUERY, *_DOCUMENTS[:2])
        query, *ids = loaded.run(loaded.model.tokenize((request.query, *request.documents)))
        documents = (*request.documents, *((TokensPart(ids=one),) for one in ids))
        for asked in (request.query, (TokensPart(ids=query),)):
            scores = self._scores(loaded, replace(request, query=asked, documents=documents))
            assert scores[:2] == pytest.approx(scores[2:], abs=self.score_tolerance), LOST_IDS
        assert scores[:2] == pytest.approx(self._scores(loaded, request), abs=self.score_tolerance), LOST_IDS

    @staticmethod
    def _scores(loaded: ModelUnderTest, request: RerankRequest) -> tuple[float, ...]:
        return loaded.run(loaded.ask(request)).ranked.scores
