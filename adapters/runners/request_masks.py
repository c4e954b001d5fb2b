"""Makes the mask of a request from its constraint and its thinking budget, using the model's vocabulary."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from corral.core.errors import Unsupported
from corral.core.lru import LruDict
from corral.core.ports.engines import Engine
from corral.core.ports.tokens import OpenTokenizer, RequestMask, Vocabulary
from corral.core.requests.requests import CompletionRequest, Request
from corral.core.stepping.joined_masks import JoinedMasks
from corral.core.stepping.thinking_mask import Spelling, ThinkingMask
from corral.core.wording.pip_lines import pip_line

if TYPE_CHECKING:
    from corral.adapters.constraints.masks import GrammarMasks

__all__ = ("RequestMasks",)

_REQUIREMENT = "llguidance>=1.9,<2"
_REMEMBERED_TAGS = 16


class RequestMasks:
    """The masks of one model's requests. Safe for many threads.

    The vocabulary is read when the first mask is made, and llguidance imported with the first constraint.
    """

    def __init__(self, engine: Engine) -> None:
        self._able = "constraints" in engine.info.features
        self._tokenizer = engine.tokenizer
        self._lock = threading.Lock()
        self._grammars: GrammarMasks | None = None
        self._spellings: LruDict[str, Spelling] = LruDict(_REMEMBERED_TAGS)

    @staticmethod
    def needed_by(request: Request) -> bool:
        """Whether the request cannot run without a mask."""
        return isinstance(request, CompletionRequest) and (
            request.constraint is not None or request.thinking_budget is not None
        )

    def mask(self, request: Request) -> RequestMask:
        """One mask for all that the request asks for. May take seconds.

        Raises `InvalidRequest` for what is wrong with the request, `Unsupported` if the engine cannot apply masks.
        """
        assert isinstance(request, CompletionRequest)
        masks: list[RequestMask] = []
        if request.constraint is not None:
            masks.append(self._opened_grammars()(request.constraint))
        if request.thinking_budget is not None:
            masks.append(ThinkingMask(request.thinking_budget, self._spelling(request.thinking_budget.end)))
        return masks[0] if len(masks) == 1 else JoinedMasks(masks)

    def _opened_grammars(self) -> GrammarMasks:
        with self._lock:
            if self._grammars is None:
                vocabulary = self._vocabulary("formats or grammars")
                try:
                    from corral.adapters.constraints.masks import GrammarMasks
                except ImportError as error:
                    remedy = pip_line(_REQUIREMENT)
                    raise Unsupported(f"formats and grammars need llguidance: {error}", remedy) from error
                self._grammars = GrammarMasks(vocabulary)
            return self._grammars

    def _spelling(self, text: str) -> Spelling:
        with self._lock:
            spelling = self._spellings.get(text)
            if spelling is None:
                spelling = Spelling(text, self._vocabulary("thinking budgets"))
                self._spellings.put(text, spelling)
            return spelling

    def _vocabulary(self, purpose: str) -> Vocabulary:
        if not self._able or not hasattr(self._tokenizer, "vocabulary"):
            raise Unsupported(f"this model's engine does not support {purpose}")
        return cast(OpenTokenizer, self._tokenizer).vocabulary()
