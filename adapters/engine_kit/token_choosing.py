"""Turns logits into a `Token`: which one the sampler chooses, how probable it was, and which part of it is text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from corral.adapters.engine_kit.sampling.candidates import Logits
from corral.adapters.engine_kit.sampling.rules import token_logprob
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.outputs import Token
from corral.core.requests.requests import CompletionRequest

__all__ = ("ModelTokens", "TokenChooser", "TokenSampler")


class TokenSampler(Protocol):
    """Chooses the tokens of one request among those that its mask allows."""

    def choose(self, logits: Logits) -> int:
        """Return the next token; `logits` is not changed. Raises `EngineError` if no token is possible."""
        ...


class ModelTokens:
    """The meaning of a model's tokens.

    `size` is how many ids there are: logits beyond it are padding. `ends` are the ids that end an answer. `text` gives
    the bytes that a token adds to an answer, none for a control token; `spelling` spells out control tokens too.
    `control_id` gives the id of the control token with that spelling.
    """

    def __init__(
        self,
        *,
        size: int,
        ends: Collection[int],
        text: Callable[[int], bytes],
        spelling: Callable[[int], bytes],
        control_id: Callable[[str], int | None],
    ) -> None:
        self.size = size
        self.ends = frozenset(ends)
        self.text = text
        self.spelling = spelling
        self.control_id = control_id

    @classmethod
    def of(cls, vocabulary: Vocabulary, *, size: int, control_id: Callable[[str], int | None]) -> ModelTokens:
        """The tokens of a vocabulary, of which the model has the first `size`."""
        pieces, control = vocabulary.pieces, vocabulary.control
        return cls(
            size=size,
            ends=vocabulary.ends,
            text=lambda token_id: b"" if token_id in control else pieces[token_id],
            spelling=pieces.__getitem__,
            control_id=control_id,
        )


class TokenChooser:
    """Chooses the tokens of one request, one after the other."""

    __slots__ = ("_logprobs", "_preserved", "_sampler", "_tokens")

    def __init__(self, request: CompletionRequest, sampler: TokenSampler, tokens: ModelTokens) -> None:
        preserved = (tokens.control_id(text) for text in request.preserved_tokens)
        self._preserved = frozenset(token_id for token_id in preserved if token_id is not None)
        self._logprobs = request.logprobs
        self._sampler = sampler
        self._tokens = tokens

    def choose(self, logits: Logits) -> tuple[Token, int, bool]:
        """The next token, its id, and whether it ends the answer. Raises what the sampler and the mask raise."""
        tokens = self._tokens
        token_id = self._sampler.choose(logits)
        logprob = None
        if self._logprobs is not None:
            logprob = token_logprob(logits[: tokens.size], token_id, self._logprobs, tokens.spelling)
        if token_id in self._preserved:
            return Token(token_id=token_id, piece=tokens.spelling(token_id), logprob=logprob), token_id, False
        ended = token_id in tokens.ends
        piece = b"" if ended else tokens.text(token_id)
        return Token(token_id=token_id, piece=piece, logprob=logprob), token_id, ended
