"""Joins a query and a document into the one input that a cross-encoder reads, as llama-server does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.errors import InvalidRequest, PromptTooLong
from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.requests.requests import RerankRequest
from corral.core.requests.typed_text import TypedText

__all__ = ("QueryPairs",)

_PLACE = re.compile(r"\{(query|document)\}")


class QueryPairs:
    """``BOS query EOS SEP document EOS``, of which a vocabulary has those that it wants around texts.

    A model that generates its verdict (Qwen3-Reranker) has a `template` instead, its chat template called ``rerank``,
    with the places ``{query}`` and ``{document}``. Control tokens that people typed stay text there, too.
    """

    def __init__(self, tokenizer: LlamaTokenizer, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._control = ControlTokens(tokenizer.control_tokens()) if template is not None else None

    def inputs(self, request: RerankRequest, limit: int) -> list[list[int]]:
        """One input for each document, of at most `limit` tokens.

        Raises `PromptTooLong` if `limit` leaves no room for a document, or for one that must not be cut.
        """
        query = self._bare(request.query)
        empty = self._pair(query, [])
        if len(empty) >= limit:
            raise PromptTooLong(
                f"the query takes {len(empty)} tokens, which leaves no room for a document in a context of {limit}",
                "shorten it, or raise num_ctx",
            )
        documents = map(self._bare, request.documents)
        return [self._fitting(query, document, limit, cut=request.truncate) for document in documents]

    def _fitting(self, query: list[int], document: list[int], limit: int, *, cut: bool) -> list[int]:
        pair = self._pair(query, document)
        if not pair:
            raise InvalidRequest("query and document are empty, and this model adds no tokens of its own", "omit them")
        if len(pair) > limit and not cut:
            raise PromptTooLong(
                f"query and document have {len(pair)} tokens, but the context holds {limit}",
                "shorten the document, raise num_ctx, or let it be cut (truncate)",
            )
        while len(pair) > limit:  # in a template, the text around the end may be divided anew
            document = document[: limit - len(pair)]
            pair = self._pair(query, document)
        return pair

    def _bare(self, prompt: Prompt) -> list[int]:
        """The ids without those that the tokenizer puts around every text: long texts come as ids that have them."""
        tokenizer = self._tokenizer
        ids = tokenizer.bare_tokens(prompt)
        start = len(tokenizer.opening) if tuple(ids[: len(tokenizer.opening)]) == tokenizer.opening else 0
        end = len(tokenizer.ending)
        return ids[start : len(ids) - end] if end and tuple(ids[start:][-end:]) == tokenizer.ending else ids[start:]

    def _pair(self, query: Sequence[int], document: Sequence[int]) -> list[int]:
        if self._template is None or self._control is None:
            around = self._tokenizer
            return list(chain(around.opening, query, around.divider, document, around.ending))
        texts = {"query": query, "document": document}
        typed = TypedText(self._control)
        whole = _PLACE.sub(lambda place: typed.text(self._text(texts[place[1]])), self._template)
        parts = typed.prompt(whole)
        return self._tokenizer.bare_tokens(parts or (TextPart(text=""),))

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids).decode("utf-8", "ignore")
