"""What scores documents, as a method of `AsyncCorral`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Unpack

from corral.api.library.arguments import checked, checked_count, texts_of
from corral.api.library.options import AnswerOptions, RequestOptions
from corral.core.requests.calls import RerankCall
from corral.core.requests.outputs import Usage
from corral.core.requests.relevance import relevance
from corral.core.runtime import Runtime
from corral.core.values import Value

__all__ = ("AsyncReranking", "RankedDocument", "Reranked")


class RankedDocument(Value, frozen=True, kw_only=True):
    """A document, and how well it answers the query. `index` is its place among those that were given.

    `score` is what the model says: log-odds, whose range differs between models. `relevance` is the same as a
    probability, between 0 and 1.
    """

    index: int
    text: str
    relevance: float
    score: float


class Reranked(Value, frozen=True, kw_only=True):
    """The documents, the best first. `ignored_options` are the options of the request that had no effect."""

    model: str
    documents: tuple[RankedDocument, ...]
    usage: Usage
    load_ns: int
    total_ns: int
    ignored_options: tuple[str, ...] = ()


class AsyncReranking(ABC):
    """A base of `AsyncCorral`."""

    @abstractmethod
    async def runtime(self) -> Runtime: ...

    @abstractmethod
    def _request(
        self, method: str, model: str, how: RequestOptions | AnswerOptions, known: type[RequestOptions]
    ) -> dict[str, Any]: ...

    async def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        truncate: bool = True,
        **how: Unpack[RequestOptions],
    ) -> Reranked:
        """The documents in the order of how well they answer the query, the `top_n` best of them.

        The model must be a reranker: `Unsupported` names some otherwise. Without `truncate`, a document that is too
        long is `PromptTooLong`.
        """
        request = self._request("rerank", model, how, RequestOptions)
        top_n = checked_count("top_n", top_n, least=1)
        call = RerankCall(
            query=checked("query", query, str),
            documents=texts_of(documents, "documents"),
            truncate=checked("truncate", truncate, bool),
            **request,
        )
        result = await (await self.runtime()).inference.rerank(call)
        return Reranked(
            model=model,
            documents=tuple(
                RankedDocument(
                    index=index,
                    text=call.documents[index],
                    relevance=relevance(result.scores[index]),
                    score=result.scores[index],
                )
                for index in result.best_first[:top_n]
            ),
            usage=Usage(prompt_tokens=result.prompt_tokens),
            load_ns=result.load_ns,
            total_ns=result.total_ns,
            ignored_options=result.ignored_options,
        )
