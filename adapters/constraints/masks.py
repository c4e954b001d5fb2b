"""Makes masks from constraints for one vocabulary, with llguidance. Its work is bounded: see `_LIMITS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llguidance

from corral.adapters.constraints.deep_stack import on_deep_stack
from corral.adapters.constraints.grammars import complaint_about, lark_of
from corral.core.errors import InvalidRequest
from corral.core.lru import SizedLruDict
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.requests import Constraint

__all__ = ("GrammarMask", "GrammarMasks")

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

    Grammars that were compiled recently are kept, by their text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if not vocabulary.ends:
            raise InvalidRequest("this model has no token that ends an answer, so it cannot answer in a format")
        self._pieces = vocabulary.pieces
        # Each call holds the GIL, for 1 µs per token: two calls let other threads run in between.
        bare = llguidance.LLTokenizer(_Tokens(vocabulary), eos_token=sorted(vocabulary.ends), slices=[])
        self._tokenizer = bare.with_slices(llguidance.LLTokenizer.general_slices())
        self._compiled: SizedLruDict[tuple[str, str], Any] = SizedLruDict(_KEPT_BYTES)

    def __call__(self, constraint: Constraint) -> GrammarMask:
        """Slow, up to seconds. Raises `InvalidRequest` for a grammar that is wrong, too large or impossible."""
        return GrammarMask(constraint, self._matcher(constraint), len(self._pieces))

    def _matcher(self, constraint: Constraint) -> Any:
        """Return a matcher in its initial state, owned by the caller."""
        key = (constraint.kind, constraint.source)
        compiled = self._compiled.get(key)
        if compiled is None:
            # llguidance follows references recursively: ten thousand levels fit into the longest source.
            compiled = on_deep_stack(lambda: self._compile(constraint))
            size_bytes = _BYTES_PER_MATCHER + _BYTES_PER_CHARACTER * len(constraint.source)
            self._compiled.put(key, compiled, size_bytes)
        return compiled.deep_copy()

    def _compile(self, constraint: Constraint) -> Any:
        limits = llguidance.LLParserLimits(**_LIMITS)
        matcher = llguidance.LLMatcher(self._tokenizer, lark_of(constraint), log_level=0, limits=limits)
        # An empty grammar is only noticed now, and the first mask takes time to prepare.
        GrammarMask(constraint, matcher, len(self._pieces)).allowed()
        return matcher


class GrammarMask:
    """A `RequestMask` around llguidance's matcher for one answer."""

    def __init__(self, constraint: Constraint, matcher: Any, vocabulary_size: int) -> None:
        self._constraint = constraint
        self._matcher = matcher
        self._size_bytes = (vocabulary_size + 7) // 8
        self._check()
        self.ignored = tuple(f"{constraint.subject}: {warning}" for warning in matcher.get_grammar_warnings())

    def allowed(self) -> bytes:
        bits: bytes = self._matcher.compute_bitmask()[: self._size_bytes]
        self._check()
        return bits

    def accept(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            self._check()
            raise InvalidRequest(f"token {token_id} was chosen, which the format does not allow")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(complaint_about(self._constraint, self._matcher.get_error()))


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
