"""Makes the mask of a request from its constraint and its thinking, using the model's vocabulary."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import msgspec

from corral.core.errors import Unsupported
from corral.core.lru import LruDict
from corral.core.ports.engines import Engine
from corral.core.ports.tokens import OpenTokenizer, RequestMask, Vocabulary
from corral.core.requests.requests import CompletionRequest, Constraint, Request, Thinking
from corral.core.stepping.answer_driver import needs_mask
from corral.core.stepping.thinking_mask import AnswerMask, Spelling, ThinkingMask
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

    def mask(self, request: Request) -> RequestMask | None:
        """One mask for all that the request asks for; None if it needs none. May take seconds.

        Raises `InvalidRequest` for what is wrong with the request, `Unsupported` if the engine cannot apply masks.
        """
        if not needs_mask(request):
            return None
        assert isinstance(request, CompletionRequest)
        answer = None if request.constraint is None else self._answer_mask(request, request.constraint)
        return answer if request.thinking is None else self._thinking_mask(request.thinking, answer)

    def _answer_mask(self, request: CompletionRequest, constraint: Constraint) -> AnswerMask:
        grammars, preserved_tokens = self._opened_grammars(), request.preserved_tokens
        if preserved_tokens and constraint.kind == "lark":
            from corral.adapters.constraints.control_literals import with_control_tokens

            source = with_control_tokens(constraint.source, preserved_tokens, self._vocabulary("formats or grammars"))
            constraint = msgspec.structs.replace(constraint, source=source)
        mask = grammars(constraint)
        if constraint.alternative is None:
            return mask
        from corral.adapters.constraints.either_mask import EitherMask

        return EitherMask(mask, self._answer_mask(request, constraint.alternative))

    def _thinking_mask(self, thinking: Thinking, answer: AnswerMask | None) -> ThinkingMask:
        start = self._spelling(thinking.start) if thinking.start else None
        return ThinkingMask(thinking, start, self._spelling(thinking.end), answer)

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
                spelling = Spelling(text, self._vocabulary("limits of thinking"))
                self._spellings.put(text, spelling)
            return spelling

    def _vocabulary(self, purpose: str) -> Vocabulary:
        if not self._able or not hasattr(self._tokenizer, "vocabulary"):
            raise Unsupported(f"this model's engine does not support {purpose}")
        return cast(OpenTokenizer, self._tokenizer).vocabulary()
