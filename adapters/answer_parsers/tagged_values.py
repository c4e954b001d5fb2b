"""Reads arguments that stand between tags, and passes them on as the JSON that they become while they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from corral.adapters.answer_parsers.call_pieces import PieceSink
from corral.adapters.answer_parsers.call_source import CallSource, Step
from corral.adapters.answer_parsers.typed_values import schema_types, text_before, typed_value
from corral.core.requests.messages import Tool

__all__ = ("ArgumentWriter", "tagged_value")

_encode = msgspec.json.Encoder().encode


class ArgumentWriter:
    """Writes the arguments of one call into `sink`, one after the other; does nothing without one."""

    def __init__(self, sink: PieceSink | None, name: str) -> None:
        self._sink = sink
        self._opening = "{"
        if sink is not None:
            sink.begin(name, None)

    def key(self, name: str) -> None:
        """The next argument."""
        self._add(f"{self._opening}{_json(name)}: ")
        self._opening = ", "

    def value(self, value: Any) -> None:
        self._add(_json(value))

    def text(self, *, in_lines: bool) -> _TextWriter | None:
        """Writes a text that arrives in parts; None if nobody wants it. `in_lines`: see `tagged_value`."""
        return None if self._sink is None else _TextWriter(self._sink, in_lines=in_lines)

    def end(self) -> None:
        self._add("{}" if self._opening == "{" else "}")

    def _add(self, text: str) -> None:
        if self._sink is not None:
            self._sink.add(text)


class _TextWriter:
    def __init__(self, sink: PieceSink, *, in_lines: bool) -> None:
        self._sink = sink
        self._in_lines = in_lines
        self._begins = True
        self._held = ""
        sink.add('"')

    def heard(self, text: str) -> None:
        """More of the text."""
        if self._in_lines:
            text = self._held + (text.removeprefix("\n") if self._begins else text)
            self._begins = False
            self._held = "\n" if text.endswith("\n") else ""
            text = text.removesuffix("\n")
        if text:
            self._sink.add(_json(text)[1:-1])

    def end(self) -> None:
        self._sink.add('"')


def tagged_value(
    source: CallSource,
    closing: str,
    schema: Any,
    tool: Tool,
    written: ArgumentWriter,
    *,
    is_text: bool = False,
    in_lines: bool = False,
) -> Step[Any]:
    """Reads the value of an argument up to `closing`, and that; it has the type that its schema asks for.

    With `is_text`, it is a text whatever the schema says. With `in_lines`, a line break at the beginning and one at the
    end belong to the tags.
    """
    if is_text or schema_types(schema, tool) == {"string"}:
        writer = written.text(in_lines=in_lines)
        heard: Callable[[str], None] | None = None if writer is None else writer.heard
        text, _ = yield from source.until(closing, heard=heard)
        if writer is not None:
            writer.end()
        return text.removeprefix("\n").removesuffix("\n") if in_lines else text
    text = yield from text_before(source, closing, schema, tool)
    value = typed_value(text.removeprefix("\n").removesuffix("\n") if in_lines else text, schema, tool)
    written.value(value)
    return value


def _json(value: Any) -> str:
    return _encode(value).decode()
