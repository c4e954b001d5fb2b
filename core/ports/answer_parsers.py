"""The answer-parser port: separates thinking and tool calls from the visible text while an answer is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corral.core.ports.chat import RenderedChat
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest

__all__ = ("AnswerParser", "AnswerParserFactory")


class AnswerParser(Protocol):
    """Reads one answer, in the event loop: nothing in it may take long.

    The result does not depend on how the answer is divided into deltas. Token counts and log-probabilities are
    passed on without delay and add up to what came in. Text is held back only while it may be the beginning of a mark.
    """

    def feed(self, delta: Delta) -> Sequence[Delta]:
        """The deltas that can be passed on after this one."""
        ...

    def finish(self) -> Sequence[Delta]:
        """What was held back. Called once, after the last delta."""
        ...


class AnswerParserFactory(Protocol):
    """Opens parsers of one kind."""

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:
        """A parser for the answer to `request`, which was rendered as `rendered`."""
        ...
