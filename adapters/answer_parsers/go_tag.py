"""Tool calls of models with Go templates: a tag that the template shows, a tool's name, and an object of arguments.

As Ollama reads them: the first text in the template's block of tool calls is the tag. After it, the earliest name of a
tool and the first JSON object make a call. If the tag is only a brace or a bracket, it must begin the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from corral.adapters.answer_parsers.call_formats import Tools, any_call, json_object_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import CallKeys, known_name, new_call
from corral.adapters.answer_parsers.marked_calls import Calls, MarkedCallParser
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, literal
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.requests import ChatRequest

__all__ = ("GoTagCalls",)

_OTHER_FORMATS = (
    "<function=", "<arg_key>", "<|tool_call>", "<start_function_call>", "<|channel|>", "```tool_code",
    "<minimax:tool_call>", "｜DSML｜",
)  # fmt: skip
_BARE = ("{", "[")
_MOST_OBJECTS = 1024
"""That are looked at for the arguments of one call."""

_MOST_OTHERS, _LONGEST_OTHER = 64, 128
_WORD = re.compile(r"[\w.-]+")
_CLOSING = re.compile(r"([<\[]\|?)(\w+\|?[>\]])")


class GoTagCalls:
    """A `ToolCallFormat` for tags that are in `RenderedChat.call_tag`; without one, it is a brace."""

    def recognises(self, template: TemplateText) -> bool:
        text = template.text
        return template.kind == "go" and ".ToolCalls" in text and not any(map(text.__contains__, _OTHER_FORMATS))

    def preserved_tokens(self, rendered: RenderedChat) -> frozenset[str]:
        tag = _tag_of(rendered)
        closing = _closing_of(tag)
        return frozenset() if tag in _BARE else frozenset({tag, closing} if closing else {tag})

    def open(self, request: ChatRequest, rendered: RenderedChat) -> MarkedCallParser:
        tools, tag = {tool.name: tool for tool in request.tools}, _tag_of(rendered)
        reader = partial(_read, _Names(tools), tools, tag)
        return MarkedCallParser(
            reader,
            () if tag in _BARE else (tag,),
            leading=(tag,) if tag in _BARE else (),
            in_pieces=request.tool_calls_in_pieces,
        )

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        tag = _tag_of(rendered)
        calls = any_call(tools, json_object_call)
        if tag not in _BARE:
            closing = _closing_of(tag)
            end = f' "\\n" {literal(closing)}' if closing else ""
            return calls_after(tag, f'call: "\\n"? one{end}\n{calls}', required=required, between="\n")
        one = "one" if tag == "{" else f'"[" {call_list(", ", required=required)} "]"'
        if required:
            return f"start: {one}\n{calls}"
        return f"start: OTHER | {one} TEXT\nOTHER: /(\\s*[^\\s\\{tag}](.|\\n)*)?/\nTEXT: /(.|\\n)*/\n{calls}"


class _Names:
    """The names of a request's tools. Those with characters besides letters, digits, ``_``, ``.`` and ``-`` are looked
    for one by one, so only the first few of them are.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        others = (name for name in tools if len(name) <= _LONGEST_OTHER and not _WORD.fullmatch(name))
        either = "|".join(map(re.escape, islice(others, _MOST_OTHERS)))
        self._others = re.compile(rf"(?<![\w.-])({either})(?![\w.-])") if either else None

    def first_in(self, text: str) -> str:
        """The earliest name in the text; empty if there is none."""
        other = self._others.search(text) if self._others is not None else None
        word = next((found for found in _WORD.finditer(text) if found[0] in self._tools), None)
        if other is None or (word is not None and word.start() < other.start()):
            return "" if word is None else word[0]
        return other[0]


def _tag_of(rendered: RenderedChat) -> str:
    return rendered.call_tag or "{"


def _closing_of(tag: str) -> str:
    """``</tool_call>`` for ``<tool_call>``; empty if the tag has no such form."""
    found = _CLOSING.fullmatch(tag)
    return "" if found is None else f"{found[1]}/{found[2]}"


def _read(names: _Names, tools: Tools, tag: str, source: CallSource) -> Calls:
    if tag not in _BARE:
        yield from source.expect(tag)
    closing = _closing_of(tag) or tag
    while True:
        before, _ = yield from source.until("{")
        # After a name, the object may be the arguments or contain them: that is known once it is complete.
        value = yield from (source.json("{") if names.first_in(before) else CallKeys(known=tools).read(source, "{"))
        yield _call(before, value, names, tools)
        while True:
            yield from source.space()
            if not (yield from source.accept(closing, tag, ",", "]", ";") if tag != "{" else source.accept(",", ";")):
                break
        if (yield from source.peek()) != "{":
            return


def _call(before: str, value: Any, names: _Names, tools: Tools) -> ToolCall:
    """The call with the earliest name of a tool. In an object, a name is a whole text."""
    found = names.first_in(before)
    named = value.get("name") if isinstance(value, Mapping) else None
    if found:
        name: str | None = found
    elif isinstance(named, str):
        name = known_name(named, tools)
    else:
        name = next((text for text in _texts(value) if text in tools), None)
    if name is None:
        raise ValueError("it names no tool of this request")
    return new_call(name, _arguments(value, name), tools)


def _texts(value: Any) -> Iterator[str]:
    """All keys and texts in a value, in order."""
    waiting = [iter([value])]
    while waiting:
        one = next(waiting[-1], None)
        if one is None:
            waiting.pop()
        elif isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting.append(iter([part for pair in one.items() for part in pair if part is not None]))
        elif isinstance(one, list):
            waiting.append(iter([part for part in one if part is not None]))


def _arguments(value: Any, name: str) -> Any:
    """The arguments in the first object that has a name and arguments, or has the tool's name as a key; or `value`."""
    waiting, seen = [value], 0
    while waiting and seen < _MOST_OBJECTS:
        one, seen = waiting.pop(0), seen + 1
        if isinstance(one, list):
            waiting.extend(one[:_MOST_OBJECTS])
        if not isinstance(one, Mapping):
            continue
        for key in ("arguments", "parameters") if "name" in one else (name,):
            if isinstance(one.get(key), (Mapping, str)):
                return one[key]
        if "name" in one:
            return None
        waiting.extend(one.values())
    return value
