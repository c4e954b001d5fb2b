"""An engine that only tokenizes: what the built-in engines open of a model if nobody needs its weights."""

from __future__ import annotations

from collections.abc import Callable

from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import Tokenizer

__all__ = ("VocabularyEngine",)


def _nothing() -> None:
    pass


class VocabularyEngine:
    """The `Engine` port without a task. `close` frees what the tokenizer reads from.

    `control_tokens` and `longest_token_bytes` are what the whole engine says in its `ModelInfo`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        control_tokens: tuple[str, ...] | None = None,
        longest_token_bytes: int | None = None,
        close: Callable[[], None] = _nothing,
    ) -> None:
        self.tokenizer: Tokenizer | None = tokenizer
        self.info = ModelInfo(
            tasks=frozenset(),
            features=frozenset({"tokenize"}),
            control_tokens=control_tokens,
            longest_token_bytes=longest_token_bytes,
        )
        self._close = close

    def close(self) -> None:
        self._close()
