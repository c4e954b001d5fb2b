"""Makes masks from constraints for one vocabulary, with llguidance. Its work is bounded: see `_LIMITS`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import llguidance

from corral.adapters.constraints.completing_mask import CompletingMask
from corral.adapters.constraints.deep_stack import on_deep_stack
from corral.adapters.constraints.grammar_mask import GrammarMask
from corral.adapters.constraints.grammars import grammars_of
from corral.adapters.constraints.json_endings import JsonEndings
from corral.core.errors import InvalidRequest
from corral.core.lru import SizedLruDict
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.requests import Constraint
from corral.core.stepping.thinking_mask import AnswerMask

__all__ = ("GrammarMasks",)

_LIMITS = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 100_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 20_000,
    "max_items_in_row": 2_000,
    "verbose_errors": False,
}
"""The mask of a token takes a fraction of a second even for a grammar designed to be slow, and at most 50 MB."""


_KEPT_BYTES = 64 << 20
_BYTES_PER_MATCHER, _BYTES_PER_CHARACTER = 256 << 10, 1 << 10
"""The measured size of a compiled grammar: the largest from a JSON Schema took 900 bytes per character."""


class GrammarMasks:
    """Any thread may make masks; each mask may then be used in another.

    Grammars that were compiled recently are kept, by a hash of their text; each is compiled once at a time.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if not vocabulary.ends:
            raise InvalidRequest("this model has no token that ends an answer, so it cannot answer in a format")
        self._vocabulary = vocabulary
        self._pieces = vocabulary.pieces
        # Each call holds the GIL, for 1 µs per token: two calls let other threads run in between.
        bare = llguidance.LLTokenizer(_Tokens(vocabulary), eos_token=sorted(vocabulary.ends), slices=[])
        self._tokenizer = bare.with_slices(llguidance.LLTokenizer.general_slices())
        self._lock = threading.Lock()
        self._compiled: SizedLruDict[bytes, Any] = SizedLruDict(_KEPT_BYTES)
        self._compiling: dict[bytes, Future[Any]] = {}

    def __call__(self, constraint: Constraint) -> AnswerMask:
        """Slow, up to seconds. Raises `InvalidRequest` for a grammar that is wrong, too large or impossible.

        A JSON text is complete within the mask's `limit`, if that is possible at all; one that contains JSON is if the
        constraint asks for it.
        """
        mask = GrammarMask(constraint, self._matcher(constraint), len(self._pieces))
        is_json = constraint.kind == "json_schema"
        if not (is_json or constraint.complete):
            return mask
        return CompletingMask(mask, self._endings, self._pieces, is_json=is_json)

    @cached_property
    def _endings(self) -> JsonEndings:
        return JsonEndings(self._vocabulary)

    def _matcher(self, constraint: Constraint) -> Any:
        """Return a matcher in its initial state, owned by the caller. Callers with the same grammar wait for the one
        that compiles it, and get its error too.
        """
        key = hashlib.sha256(f"{constraint.kind} {constraint.source}".encode(errors="surrogatepass")).digest()
        with self._lock:
            compiling = self._compiling.get(key)
            compiled = self._compiled.get(key)
            if mine := compiled is None and compiling is None:
                compiling = self._compiling[key] = Future()
        if mine:
            assert compiling is not None
            self._compile_for(compiling, key, constraint)
        if compiled is None:
            assert compiling is not None
            compiled = compiling.result()
        return compiled.deep_copy()

    def _compile_for(self, waiting: Future[Any], key: bytes, constraint: Constraint) -> None:
        try:
            # llguidance follows references recursively: ten thousand levels fit into the longest source.
            compiled = on_deep_stack(lambda: self._compile(constraint))
        except BaseException as error:
            with self._lock:
                del self._compiling[key]
            waiting.set_exception(error)
            return
        size_bytes = _BYTES_PER_MATCHER + _BYTES_PER_CHARACTER * len(constraint.source)
        with self._lock:
            self._compiled.put(key, compiled, size_bytes)
            del self._compiling[key]
        waiting.set_result(compiled)

    def _compile(self, constraint: Constraint) -> Any:
        limits = llguidance.LLParserLimits(**_LIMITS)
        failure: InvalidRequest | None = None
        for text in grammars_of(constraint):
            matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0, limits=limits)
            try:
                # An empty grammar is only noticed now, and the first mask takes time to prepare.
                GrammarMask(constraint, matcher, len(self._pieces)).allowed()
            except InvalidRequest as error:
                failure = failure or error
            else:
                return matcher
        assert failure is not None
        raise failure


class _Tokens:
    """A vocabulary with the attributes that llguidance needs from a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens: Sequence[bytes] = vocabulary.pieces
        self.special_token_ids: Sequence[int] = sorted(vocabulary.control)
        self.eos_token_id = min(vocabulary.ends)

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("only grammars that force tokens need a tokenizer, and ours do not")
