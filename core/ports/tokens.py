"""The token ports: tokenizers, vocabularies, and masks of the tokens that may come next."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol

from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Constraint
from corral.core.values import Value

if TYPE_CHECKING:
    pass

__all__ = ("ConstraintMask", "GradualTokenizer", "MaskFactory", "OpenTokenizer", "TokenMask", "Tokenizer", "Vocabulary")


class Tokenizer(Protocol):
    """Thread-safe; called off the step thread; never waits for a step."""

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]: ...

    def decode(self, ids: Sequence[int]) -> bytes: ...


class GradualTokenizer(Tokenizer, Protocol):
    """A tokenizer that takes a long text a piece at a time, so that callers can take turns, and give up."""

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        """What `encode` gives for one prompt, yielding between pieces of a few milliseconds.

        `most` and `cut` as in `RunningModel.tokenize`.
        """
        ...


class Vocabulary(Value, frozen=True, kw_only=True):
    """Every token of a model, by id: its bytes, and what is special.

    `control` are the ids that are no text (``<|im_end|>``); `ends` those that end an answer.
    """

    pieces: tuple[bytes, ...]
    control: frozenset[int] = frozenset()
    ends: frozenset[int] = frozenset()


class OpenTokenizer(Tokenizer, Protocol):
    """A tokenizer that shows its vocabulary: what constraints need. Its model has the feature ``constraints``."""

    def vocabulary(self) -> Vocabulary:
        """The same value each time; made on first use."""
        ...


class TokenMask(Protocol):
    """Which tokens may come next: a constraint, a thinking budget, forced tokens. Made by the driver."""

    def allowed(self) -> bytes | None:
        """One bit per token id, least significant first; None: all. Asked once before each sampled token."""
        ...

    def accept(self, token_id: int) -> None:
        """Called with every token chosen, in order."""
        ...


class ConstraintMask(TokenMask, Protocol):
    """The mask of one answer that must follow a `Constraint`. Where the grammar is complete, only an end may come.

    Both methods raise `InvalidRequest` where the grammar turns out too complex to be followed.
    """

    @property
    def ignored(self) -> tuple[str, ...]:
        """What the grammar asks for and the mask does not hold the answer to, in words."""
        ...


class MaskFactory(Protocol):
    """Makes the masks of one model. Slow, up to seconds: never called in the thread that steps."""

    def __call__(self, constraint: Constraint) -> ConstraintMask:
        """Raises `InvalidRequest` for a grammar that is wrong, cannot be fulfilled or is too large."""
        ...
