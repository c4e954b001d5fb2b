"""Wraps the answer parsers and tool call formats of plugins: what they raise becomes an error that names the plugin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from corral.core.containment import contained, short_line
from corral.core.models.model import TemplateText
from corral.core.ports.answer_parsers import AnswerParser
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Tool
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags
from corral.plugins.guarded_parts import complain, ours
from corral.plugins.plugin_results import checked, validated

__all__ = ("GuardedCallFormat", "GuardedParsers")

_MOST_DELTAS = 10_000
"""What an answer parser may return at once."""


class GuardedParsers:
    """An `AnswerParserFactory`; the parsers that it opens are guarded too."""

    def __init__(self, factory: Any, where: str) -> None:
        self._factory = factory
        self._where = where

    def think_tags(self, template: TemplateText) -> ThinkTags | None:
        """None if it fails: it is asked about every template."""
        try:
            tags = contained(self._factory.think_tags, template)
            tags = None if tags is None else validated(tags, ThinkTags)
        except Exception as fault:
            complain(self._where, f"{type(fault).__name__}: {short_line(fault)}")
            return None
        return tags

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:
        return _opened(self._factory, request, rendered, self._where)


class GuardedCallFormat:
    """A `ToolCallFormat`; the parsers that it opens are guarded too."""

    def __init__(self, call_format: Any, where: str) -> None:
        self._format = call_format
        self._where = where

    def recognises(self, template: TemplateText) -> bool:
        """False if it fails: it is asked about every template."""
        try:
            return bool(contained(self._format.recognises, template))
        except Exception as fault:
            complain(self._where, f"{type(fault).__name__}: {short_line(fault)}")
            return False

    def preserved_tokens(self, rendered: RenderedChat) -> frozenset[str]:
        with ours(f"{self._where}: preserved_tokens"):
            tokens: frozenset[str] = validated(contained(self._format.preserved_tokens, rendered), frozenset[str])
            return tokens

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:
        return _opened(self._format, request, rendered, self._where)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        with ours(f"{self._where}: call_grammar"):
            return checked(contained(self._format.call_grammar, tools, rendered, required=required), str)


def _opened(part: Any, request: ChatRequest, rendered: RenderedChat, where: str) -> AnswerParser:
    with ours(f"{where}: open"):
        parser = part.open(request, rendered)
        if not (callable(getattr(parser, "feed", None)) and callable(getattr(parser, "finish", None))):
            raise TypeError(f"it returned {short_line(repr(parser), 60)} instead of an AnswerParser")
    return _GuardedParser(parser, where)


class _GuardedParser:
    """An `AnswerParser`, called in the event loop for each delta: an exception ends only this answer."""

    def __init__(self, parser: AnswerParser, where: str) -> None:
        self._parser = parser
        self._where = where

    def feed(self, delta: Delta) -> Sequence[Delta]:
        with ours(f"{self._where}: feed"):
            return _checked_deltas(self._parser.feed(delta))

    def finish(self) -> Sequence[Delta]:
        with ours(f"{self._where}: finish"):
            return _checked_deltas(self._parser.finish())


def _checked_deltas(found: Iterable[Delta]) -> Sequence[Delta]:
    deltas = tuple(islice(found, _MOST_DELTAS + 1))
    if len(deltas) > _MOST_DELTAS:
        raise ValueError(f"it made more than {_MOST_DELTAS} deltas of one")
    for delta in deltas:
        checked(delta, Delta)
    return deltas
