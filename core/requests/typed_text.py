"""Keeps what people typed apart from a chat template's own text, in whatever language it is written.

The text goes through the template as it is, except that control tokens in it stand between two marks: Unicode
noncharacters, which no text may contain. So the template can trim, test and join texts as it likes, and afterwards it
is known which control tokens are its own. Images go through it as other marks, with their numbers, in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.image_places import in_places, refuse_repeated
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.prompts import MediaPart, Prompt, TextPart, joined

__all__ = ("ROLES", "TypedText", "marked", "stretches", "unmarked", "without_escapes")

ROLES = frozenset({"system", "user", "assistant", "tool"})
"""The roles that every template may know."""

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_IMAGE, _IMAGE_END = "\ufdd2", "\ufdd3"
_UNMARK = dict.fromkeys(map(ord, (_OPEN, _CLOSE, _IMAGE, _IMAGE_END)))
_ANY_MARK = re.compile(f"[{_OPEN}{_CLOSE}{_IMAGE}{_IMAGE_END}]")
_NUMBERED_IMAGE = re.compile(f"{_IMAGE}([0-9]{{1,9}}){_IMAGE_END}")
# Marks as they are, or as `repr` writes them in a format.
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}|\\\\ufdd0((?:(?!\\\\ufdd)[^{_OPEN}{_CLOSE}])*)\\\\ufdd1")
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\u(fdd[01])")


class TypedText:
    """Marks control tokens on the way into one rendering, and splits its result into parts.

    Create one per rendering. `chars` is how much text has been marked so far.

    `spared` are texts that the template itself looks for in answers (``</think>``). They stay unmarked there: a mark
    would stand between the text that the template cuts off and the whitespace that it then strips. A role that is not
    among `roles` is marked as a whole, since templates turn roles into control tokens (``<|user|>``).
    """

    def __init__(
        self, control: ControlTokens, *, spared: frozenset[str] = frozenset(), roles: frozenset[str] = ROLES
    ) -> None:
        self._control = control
        self._spared = spared
        self._roles = roles
        self._used = False
        self._images: list[bytes] = []
        self.chars = 0

    def message(self, message: Message) -> Message:
        """The message with its texts marked, role and tool calls included. Its content has marks for its images: in
        place of each ``[img]`` in it, in order; the images that are left stand in front, as in Ollama.
        """
        spared = self._spared if message.role == "assistant" else frozenset[str]()
        return msgspec.structs.replace(
            message,
            role=self._role(message.role),
            content=self._content(message, spared),
            thinking=None if message.thinking is None else self.text(message.thinking, spared),
            tool_calls=tuple(map(self._call, message.tool_calls)),
            tool_name=None if message.tool_name is None else self.text(message.tool_name),
            tool_call_id=None if message.tool_call_id is None else self.text(message.tool_call_id),
        )

    def tool(self, tool: Tool) -> Tool:
        """The tool with its texts marked, those in its parameters included."""
        return msgspec.structs.replace(
            tool,
            name=self.text(tool.name),
            description=self.text(tool.description),
            parameters=self._data(tool.parameters),
        )

    def text(self, text: str, spared: frozenset[str] = frozenset()) -> str:
        """The text with marks around every control token not in `spared`; marks that were typed are removed.

        A control token that the text begins and does not end is marked as well: what follows may have been typed too.
        """
        self.chars += len(text)
        if _ANY_MARK.search(text):
            text = text.translate(_UNMARK)
        result = self._control.replace(text, lambda found: found[0] if found[0] in spared else marked(found[0]))
        if (begun := self._control.begun(result)) < len(result):
            result = f"{result[:begun]}{marked(result[begun:])}"
        self._used |= _OPEN in result
        return result

    def prompt(self, rendered: str) -> Prompt:
        """The prompt for a rendering: marked stretches become parts with `parse_special` off, and images parts.

        A mark whose partner was cut off is dropped. Raises `InvalidRequest` if the template repeats images too often.
        """
        if not self._images:
            return joined(self._text_parts(rendered))
        parts: list[TextPart | MediaPart] = []
        pieces = _NUMBERED_IMAGE.split(rendered)
        refuse_repeated(len(pieces) // 2, len(self._images))
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                parts += self._text_parts(piece)
            elif int(piece) < len(self._images):  # not a mark that the template itself wrote
                parts.append(MediaPart(data=self._images[int(piece)]))
        return joined(parts)

    def _content(self, message: Message, spared: frozenset[str]) -> str:
        if not message.images:
            return self.text(message.content, spared)
        first = len(self._images)
        self._images += message.images
        pieces = in_places(message.content, range(first, len(self._images)))
        return "".join(
            [self.text(one, spared) if isinstance(one, str) else f"{_IMAGE}{one}{_IMAGE_END}" for one in pieces]
        )

    def _text_parts(self, rendered: str) -> list[TextPart]:
        return self._parts(rendered) if self._used else [TextPart(text=rendered, parse_special=True)]

    def _call(self, call: ToolCall) -> ToolCall:
        return msgspec.structs.replace(
            call,
            id=None if call.id is None else self.text(call.id),
            name=self.text(call.name),
            arguments=self._data(call.arguments),
        )

    def _data(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._data(item) for item in value]
        return value

    def _role(self, role: str) -> str:
        if role in self._roles:
            return self.text(role)
        self.chars += len(role)
        self._used = True
        return marked(role.translate(_UNMARK))

    def _parts(self, rendered: str) -> list[TextPart]:
        parts: list[TextPart] = []
        position = 0
        for match in _MARKED.finditer(rendered):
            content = match[1]
            if content is None:
                if not (self._control.is_one(match[2]) or self._control.begun(match[2]) == 0):
                    # someone typed the escape itself
                    continue
                content = match[2]
            parts.append(TextPart(text=rendered[position : match.start()].translate(_UNMARK), parse_special=True))
            parts.append(TextPart(text=content))
            position = match.end()
        parts.append(TextPart(text=rendered[position:].translate(_UNMARK), parse_special=True))
        return parts


def without_escapes(text: str) -> str:
    """The output of `repr` or an ASCII encoder, with the marks unescaped."""
    if "\\ufdd" not in text:
        return text
    return _ESCAPED.sub(lambda found: found[1] + chr(int(found[2], 16)), text)


def marked(text: str) -> str:
    """The text between marks; for languages whose functions take marked texts apart and join them again."""
    return f"{_OPEN}{text}{_CLOSE}"


def unmarked(text: str) -> str:
    """The text as it was typed."""
    return text.translate(_UNMARK) if _OPEN in text or _CLOSE in text else text


def stretches(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, without marks, and whether each was between them. None of the pieces is empty."""
    found = []
    for index, piece in enumerate(text.split(_OPEN)):
        inside, closed, after = piece.partition(_CLOSE)
        found += [(inside, index > 0 and bool(closed)), (after, False)]
    return [(piece, inside) for piece, inside in found if piece]
