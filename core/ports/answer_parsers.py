"""The answer-parser ports: separate thinking and tool calls from the visible text while an answer is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Tool
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags

__all__ = ("AnswerParser", "AnswerParserFactory", "ToolCallFormat")


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
    """Opens parsers that tell thinking from the visible text, for one way of writing thinking."""

    def think_tags(self, template: TemplateText) -> ThinkTags | None:
        """The tags around the thinking of models with this template; None if they do not think in this way."""
        ...

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:
        """A parser for the answer to `request`, which was rendered as `rendered`; `rendered.think` are the tags."""
        ...


class ToolCallFormat(Protocol):
    """One way in which models write tool calls.

    Its parsers turn the text of a call into a `ToolCall` with the name and the arguments, and with an `id` only if the
    model writes one: core numbers the calls. What looks like a call but is none (its JSON is malformed, its tool is not
    among the request's, it was cut off) stays visible text, with a warning in `Delta.warnings`.

    If the request has `tool_calls_in_pieces`, a parser may report a call while it is written, in `tool_call_pieces`:
    the first piece has the name, and the model's id if it came before the arguments; then come pieces of the arguments,
    which together are a JSON text of the same arguments as the call's, and at any time the beginning of one; then the
    call itself, in the same delta or later. A piece belongs before the calls of its delta. A parser only does so once
    the name is that of a tool. What then turns out to be no call ends with a piece that has a `problem`, and is not
    text. Core makes pieces for calls that come without.
    """

    def recognises(self, template: TemplateText) -> bool:
        """Whether models with this template write their calls in this way."""
        ...

    def preserved_tokens(self, rendered: RenderedChat) -> frozenset[str]:
        """Texts that the parser looks for and that may be control tokens, which are otherwise left out of the text."""
        ...

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:
        """A parser for the answer to `request`, which has tools and was rendered as `rendered`."""
        ...

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        """A grammar of answers whose calls are calls of `tools`, with arguments that fit their `parameters`.

        With `required`, the answer consists of one or a few calls (16 at most), from its first character on: small
        models would go on calling. Otherwise it is any text, in which every call that is begun is one of these. The
        grammar is Lark in llguidance's dialect, begins with the rule ``start``, and includes the schemas as they are
        (``%json {…}``). A literal that is exactly one of the `preserved_tokens` stands for the control token if the
        model has it. `corral.core.requests.call_grammars` makes such grammars.
        """
        ...
