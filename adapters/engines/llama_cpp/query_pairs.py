"""Joins a query and a document into the one input that a cross-encoder reads, as llama-server does."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from corral.adapters.engine_kit.pair_errors import empty_pair, pair_too_long, query_too_long
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.requests.control_tokens import control_tokens
from corral.core.requests.prompts import Prompt, TextPart, TokensPart, prompt_text
from corral.core.requests.requests import RerankRequest
from corral.core.requests.typed_text import TypedText

__all__ = ("DividedPairs", "QueryPairs", "TemplatePairs", "query_pairs")

TextT = TypeVar("TextT", list[int], str)

_PLACE = re.compile(r"\{(query|document)\}")


class QueryPairs(ABC, Generic[TextT]):
    """Reads query and documents in the form in which it joins them."""

    def __init__(self, tokenizer: LlamaTokenizer) -> None:
        self._tokenizer = tokenizer

    def inputs(self, request: RerankRequest, limit: int) -> list[list[int]]:
        """One input for each document, of at most `limit` tokens.

        Raises `PromptTooLong` if `limit` leaves no room for a document, or for one that must not be cut.
        """
        query = self._read(request.query)
        needed = len(self._joined(query, self._read(())))
        if needed >= limit:
            raise query_too_long(needed, limit)
        documents = map(self._read, request.documents)
        return [self._fitting(query, document, limit, cut=request.truncate) for document in documents]

    def _fitting(self, query: TextT, document: TextT, limit: int, *, cut: bool) -> list[int]:
        pair = self._joined(query, document)
        if not pair:
            raise empty_pair()
        if len(pair) > limit and not cut:
            raise pair_too_long(len(pair), limit)
        if len(pair) > limit:
            ids = self._ids(document)
            while len(pair) > limit:  # a text that is divided anew may still be too long
                ids = ids[: max(0, len(ids) + limit - len(pair))]
                pair = self._joined(query, self._of_ids(ids))
        return pair

    @abstractmethod
    def _read(self, prompt: Prompt) -> TextT: ...

    @abstractmethod
    def _joined(self, query: TextT, document: TextT) -> list[int]: ...

    @abstractmethod
    def _ids(self, document: TextT) -> list[int]: ...

    @abstractmethod
    def _of_ids(self, ids: list[int]) -> TextT: ...

    def _bare(self, prompt: Prompt) -> list[int]:
        """The ids without those that the tokenizer puts around every text: long texts come as ids that have them."""
        opening, ending = self._tokenizer.opening, self._tokenizer.ending
        ids = self._tokenizer.bare_tokens(prompt)
        if opening and tuple(ids[: len(opening)]) == opening:
            ids = ids[len(opening) :]
        if ending and tuple(ids[-len(ending) :]) == ending:
            ids = ids[: -len(ending)]
        return ids


class DividedPairs(QueryPairs[list[int]]):
    """``BOS query EOS SEP document EOS``, of which a vocabulary has those that it wants around texts."""

    def _read(self, prompt: Prompt) -> list[int]:
        return self._bare(prompt)

    def _joined(self, query: Sequence[int], document: Sequence[int]) -> list[int]:
        around = self._tokenizer
        return [*around.opening, *query, *around.divider, *document, *around.ending]

    def _ids(self, document: list[int]) -> list[int]:
        return document

    def _of_ids(self, ids: list[int]) -> list[int]:
        return ids


class TemplatePairs(QueryPairs[str]):
    """A text with the places ``{query}`` and ``{document}``, for models that generate their verdict (Qwen3-Reranker).

    Control tokens that people typed stay text there.
    """

    def __init__(self, tokenizer: LlamaTokenizer, template: str) -> None:
        super().__init__(tokenizer)
        self._template = template
        self._control = control_tokens(tokenizer.control_tokens())

    def _read(self, prompt: Prompt) -> str:
        if any(isinstance(part, TokensPart) for part in prompt):
            return self._of_ids(self._bare(prompt))
        return prompt_text(prompt)

    def _joined(self, query: str, document: str) -> list[int]:
        typed = TypedText(self._control)
        texts = {"query": typed.text(query), "document": typed.text(document)}
        return self._tokenizer.bare_tokens(typed.prompt(_PLACE.sub(lambda place: texts[place[1]], self._template)))

    def _ids(self, document: str) -> list[int]:
        return self._tokenizer.bare_tokens((TextPart(text=document),))

    def _of_ids(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids).decode("utf-8", "ignore")


def query_pairs(tokenizer: LlamaTokenizer, template: str | None) -> DividedPairs | TemplatePairs:
    """How a model with this chat template called ``rerank`` reads pairs; None if it has none."""
    return DividedPairs(tokenizer) if template is None else TemplatePairs(tokenizer, template)
