"""Chooses the parsers of an answer: those that its chat format names, and otherwise those that know the template."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corral.core.errors import PluginError
from corral.core.models.model import TemplateText
from corral.core.ports.answer_parsers import AnswerParser, AnswerParserFactory, ToolCallFormat
from corral.core.ports.chat import RenderedChat
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags

__all__ = ("ChosenParsers", "ParserChoice", "Recognised")


class Recognised(msgspec.Struct, frozen=True, kw_only=True):
    """The parsers that know a model's template, by name, and the tags around its thinking."""

    reasoning: str | None = None
    think: ThinkTags | None = None
    tool_calls: str | None = None


class ChosenParsers(msgspec.Struct, frozen=True, kw_only=True):
    """What reads one answer. `rendered` is the chat, with all that the parsers need to see."""

    rendered: RenderedChat
    reasoning: tuple[AnswerParserFactory, ...] = ()
    tool_calls: ToolCallFormat | None = None

    def open(self, request: ChatRequest) -> list[AnswerParser]:
        """The parsers that the answer goes through in turn: first thinking, then tool calls."""
        parsers = [factory.open(request, self.rendered) for factory in self.reasoning]
        if self.tool_calls is not None:
            parsers.append(self.tool_calls.open(request, self.rendered))
        return parsers


class ParserChoice:
    """All parsers, by name. If several know a template, the last one is chosen: a plugin's goes before Corral's own."""

    def __init__(self, reasoning: dict[str, AnswerParserFactory], tool_calls: dict[str, ToolCallFormat]) -> None:
        self._reasoning = reasoning
        self._tool_calls = tool_calls

    def recognise(self, template: TemplateText) -> Recognised:
        """Asks every parser about the template. Called in a thread, once per model. A separate template for tools
        tells how calls are written, and also how the model thinks if the other one does not.
        """
        plain = msgspec.structs.replace(template, tools_text="")
        with_tools = msgspec.structs.replace(plain, text=template.tools_text or template.text)
        called = next(
            (name for name in reversed(self._tool_calls) if self._tool_calls[name].recognises(with_tools)), None
        )
        for text in (plain, with_tools):
            for name in reversed(self._reasoning):
                if (tags := self._reasoning[name].think_tags(text)) is not None:
                    return Recognised(reasoning=name, think=tags, tool_calls=called)
        return Recognised(tool_calls=called)

    def choose(self, request: ChatRequest, rendered: RenderedChat, recognised: Recognised, model: str) -> ChosenParsers:
        """The parsers for one answer: for tool calls only if the request has tools, and with `think` false, only those
        for thinking that the format names, or that all answers of the model need.

        Raises `PluginError` for a name that no installed plugin has registered; `model` is for its message.
        """
        self._check(rendered.parsers, model)
        thinks = [name for name in rendered.parsers if name in self._reasoning]
        calls = [name for name in rendered.parsers if name in self._tool_calls]
        think = rendered.think
        wanted = request.think is not False or (recognised.think is not None and recognised.think.framed)
        if not thinks and recognised.reasoning is not None and wanted:
            thinks = [recognised.reasoning]
            think = think or recognised.think
        if not calls and recognised.tool_calls is not None:
            calls = [recognised.tool_calls]
        preserved = set(rendered.preserved_tokens)
        if thinks and think is not None:
            preserved |= {think.start, think.end, *think.control}
        tool_calls = self._tool_calls[calls[0]] if calls and request.tools else None
        if tool_calls is not None:
            preserved |= tool_calls.preserved_tokens(rendered)
        return ChosenParsers(
            rendered=msgspec.structs.replace(rendered, think=think, preserved_tokens=frozenset(preserved)),
            reasoning=tuple(self._reasoning[name] for name in thinks),
            tool_calls=tool_calls,
        )

    def _check(self, names: Sequence[str], model: str) -> None:
        for name in names:
            if name not in self._reasoning and name not in self._tool_calls:
                known = ", ".join(sorted({*self._reasoning, *self._tool_calls})) or "none"
                raise PluginError(
                    f"the chat format of {model} needs the answer parser {name!r}",
                    f"install the plugin that has it; installed: {known}",
                )
