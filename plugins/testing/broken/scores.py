"""Models whose scores break one promise each."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from corral.core.ports.running import RunningModel
from corral.core.requests.outputs import Output, Ranked
from corral.core.requests.prompts import Prompt, TextPart, prompt_text
from corral.core.requests.requests import Request, RerankRequest
from corral.plugins.testing.broken.sound import SoundModel

__all__ = ("SCORES",)

Scores = tuple[float, ...]


class BrokenRanker(SoundModel):
    """Asks what `misread` makes of a request, and returns scores that `altered` changes."""

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        asked = self.misread(request) if isinstance(request, RerankRequest) else request
        async with aclosing(super().answer(asked)) as outputs:
            async for output in outputs:
                if isinstance(request, RerankRequest) and isinstance(output, Ranked):
                    output = replace(output, scores=self.altered(request, output.scores))
                yield output

    def misread(self, request: RerankRequest) -> RerankRequest:
        return request

    def altered(self, request: RerankRequest, scores: Scores) -> Scores:
        return scores


class Short(BrokenRanker):
    """Scores five documents at most."""

    breaks = "test_one_score_for_each_document"

    def altered(self, request: RerankRequest, scores: Scores) -> Scores:
        # The promise of finite scores asks for six as well, and notices nothing.
        return scores[:5]


class Mirrored(BrokenRanker):
    """Returns the last score first."""

    breaks = "test_scores_come_in_order"

    def altered(self, request: RerankRequest, scores: Scores) -> Scores:
        # The promise about ids compares a list with a part of it, and would notice as well.
        ids = any(not isinstance(part, TextPart) for document in request.documents for part in document)
        return scores if ids or len(scores) < 3 else scores[::-1]


class Certain(BrokenRanker):
    """Is infinitely sure that a text which is not English is irrelevant."""

    breaks = "test_scores_are_finite"

    def altered(self, request: RerankRequest, scores: Scores) -> Scores:
        texts = map(prompt_text, request.documents)
        return tuple(score if text.isascii() else -math.inf for text, score in zip(texts, scores, strict=True))


class Wavering(BrokenRanker):
    """Changes its mind when it is asked the same again."""

    breaks = "test_the_same_document_has_the_same_score"

    def __init__(self, inner: RunningModel) -> None:
        super().__init__(inner)
        self._last: RerankRequest | None = None

    def altered(self, request: RerankRequest, scores: Scores) -> Scores:
        again, self._last = request == self._last, request
        return tuple(score + 1.0 for score in scores) if again else scores


class Obstinate(BrokenRanker):
    """Does not listen to the query."""

    breaks = "test_a_score_is_about_the_query"

    def misread(self, request: RerankRequest) -> RerankRequest:
        return replace(request, query=(TextPart(text="the"),))


class Generous(BrokenRanker):
    """Cuts what must not be cut."""

    breaks = "test_a_document_beyond_the_context"

    def misread(self, request: RerankRequest) -> RerankRequest:
        return replace(request, truncate=True)


class Unlettered(BrokenRanker):
    """Takes every document of ids for an empty one."""

    breaks = "test_documents_of_ids"

    def misread(self, request: RerankRequest) -> RerankRequest:
        def read(document: Prompt) -> Prompt:
            return document if prompt_text(document) else (TextPart(text=""),)

        return replace(request, documents=tuple(map(read, request.documents)))


SCORES: tuple[type[SoundModel], ...] = (Short, Mirrored, Certain, Wavering, Obstinate, Generous, Unlettered)
