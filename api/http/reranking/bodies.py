"""The body of requests to rerank, with the names of Cohere, Jina, llama-server and Text Embeddings Inference (TEI)."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_json import UNKNOWN
from corral.api.http.model_body import MOST_INPUTS, ModelBody, require_few

__all__ = ("RerankBody",)


class RerankBody(ModelBody, frozen=True, kw_only=True):
    """``POST /api/rerank``, ``/v1/rerank``, ``/rerank``. `documents` are texts, or objects with a ``text``.

    With `texts` in their place, it is a request of TEI, which has no `model`, and whose answer is a list. `truncation`
    is Jina's name for `truncate`. `options`, `keep_alive`, `engine` and, beside `documents`, `raw_scores` are Corral's
    additions.
    """

    go_name: ClassVar[str] = "RerankRequest"
    keeps_unknown: ClassVar[bool] = True

    query: Any = None
    documents: list[Any] | None = None
    texts: list[Any] | None = None
    top_n: int | None = None
    return_documents: bool = False
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool | None = None
    truncation: bool | None = None
    engine: str = ""
    unknown: tuple[str, ...] = msgspec.field(default=(), name=UNKNOWN)

    @property
    def is_tei(self) -> bool:
        return self.documents is None and self.texts is not None

    @property
    def may_cut(self) -> bool:
        """Long documents are cut, but for TEI's clients, who ask for it."""
        if self.truncate is not None:
            return self.truncate
        return not self.is_tei if self.truncation is None else self.truncation

    @property
    def query_text(self) -> str:
        return _text_of(self.query, "query")

    @property
    def document_texts(self) -> tuple[str, ...]:
        name = "texts" if self.is_tei else "documents"
        return tuple(_text_of(one, f"{name}[{index}]", name) for index, one in enumerate(self._given))

    @property
    def _given(self) -> list[Any]:
        return (self.texts if self.documents is None else self.documents) or []

    def check(self) -> None:
        super().check()
        if self.documents is not None and self.texts is not None:
            raise ApiError(400, "documents and texts exclude each other; send one of them", param="texts")
        if not self._given:
            name = "texts" if self.is_tei else "documents"
            raise ApiError(400, f"{name} is required, with at least one text", param=name)
        require_few("texts" if self.is_tei else "documents", self._given, MOST_INPUTS)
        if not self.query_text:
            raise ApiError(400, "query must not be empty", param="query")
        if self.top_n is not None and self.top_n < 1:
            raise ApiError(400, f"top_n must be at least 1, not {self.top_n}", param="top_n")


def _text_of(value: Any, place: str, param: str | None = None) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ApiError(400, f'{place} must be a text, or an object with a "text"', param=param or place)
    return text
