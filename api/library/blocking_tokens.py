"""Tokens of texts and chats, as methods of `Corral`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, Unpack

from corral.api.library.asynchronous import AsyncCorral
from corral.api.library.messages import Messages
from corral.api.library.options import RequestOptions
from corral.api.library.tokenizing import TokenizeOptions
from corral.core.requests.tokens import Tokens

__all__ = ("BlockingTokens",)

T = TypeVar("T")


class BlockingTokens(ABC):
    """A base of `Corral`."""

    @abstractmethod
    def call(self, function: Callable[[AsyncCorral], Awaitable[T]]) -> T: ...

    def tokenize(self, model: str, inputs: Messages, **how: Unpack[TokenizeOptions]) -> Tokens:
        """See `AsyncCorral.tokenize`."""
        return self.call(lambda corral: corral.tokenize(model, inputs, **how))

    def detokenize(self, model: str, ids: Sequence[int], **how: Unpack[RequestOptions]) -> str:
        """See `AsyncCorral.detokenize`."""
        return self.call(lambda corral: corral.detokenize(model, ids, **how))
