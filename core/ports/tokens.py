"""The token ports: tokenizers, vocabularies, and masks of the tokens that may come next."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from corral.core.requests.prompts import Prompt
from corral.core.values import Value

__all__ = ("GradualTokenizer", "OpenTokenizer", "RequestMask", "TokenMask", "Tokenizer", "Vocabulary")


class Tokenizer(Protocol):
    """Converts between text and token ids. Thread-safe; called outside the step thread; never waits for a step."""

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]: ...

    def decode(self, ids: Sequence[int]) -> bytes: ...


class GradualTokenizer(Tokenizer, Protocol):
    """A tokenizer that processes a long text in pieces, so that callers can take turns and give up."""

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        """Return what `encode` returns for one prompt; yield between pieces of a few milliseconds.

        `most` and `cut` as in `RunningModel.tokenize`.
        """
        ...


class Vocabulary(Value, frozen=True, kw_only=True):
    """Every token of a model, by id: its bytes, and which tokens are special.

    `control` are the ids of control tokens, which are not text (``<|im_end|>``); `ends` are those that end an answer.
    """

    pieces: tuple[bytes, ...]
    control: frozenset[int] = frozenset()
    ends: frozenset[int] = frozenset()


class OpenTokenizer(Tokenizer, Protocol):
    """A tokenizer that exposes its vocabulary, as constraints require. Its model has the feature ``constraints``."""

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary: always the same value, created on first use."""
        ...


class TokenMask(Protocol):
    """Says which tokens may come next; an engine asks before it samples each token of a request."""

    def allowed(self) -> bytes | None:
        """One bit per token id, least significant first; None: all. Asked once before each sampled token."""
        ...

    def accept(self, token_id: int) -> None:
        """Called with every token chosen, in order."""
        ...


class RequestMask(TokenMask, Protocol):
    """Everything that limits the tokens of one request: its `Constraint`, the length of its `Thinking`, or both.

    Once a grammar is complete, it allows only tokens that end the answer. `allowed` and `accept` raise `InvalidRequest`
    if the grammar turns out too complex to be followed.
    """

    def limit(self, tokens: int) -> None:
        """The whole answer has room for so many tokens, its end included: a mask may see to it that it is complete by
        then. Called once the prompt is in memory, so one token may have been chosen before.
        """
        ...

    @property
    def ignored(self) -> tuple[str, ...]:
        """Descriptions of what the request asks for but the mask does not enforce."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the caller should know about the finished answer, such as that its JSON had to be completed early."""
        ...
