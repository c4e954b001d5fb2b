"""Reads tool calls that models write as JSON objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from corral.adapters.answer_parsers.call_pieces import ArgumentPieces, CallPieces
from corral.adapters.answer_parsers.call_source import CallSource, Step
from corral.adapters.answer_parsers.json_values import decoded
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.requests.messages import ToolCall
from corral.core.wording.clipping import clipped

__all__ = ("CallKeys", "json_calls", "json_list", "known_name", "new_call", "read_arguments")


def known_name(name: Any, known: Collection[str]) -> str:
    """`name`, if it is one of a tool. Raises `ValueError`."""
    if not isinstance(name, str):
        raise ValueError("it names no tool")
    if name not in known:
        raise ValueError(f"there is no tool {clipped(name, 100)!r}")
    return name


def new_call(name: Any, arguments: Any, known: Collection[str], call_id: Any = None) -> ToolCall:
    """The call of a tool. Arguments may be a JSON text, or None if there are none. Raises `ValueError`."""
    name = known_name(name, known)
    if isinstance(arguments, str):
        arguments = decoded(arguments) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError("its arguments are not a JSON object")
    return ToolCall(name=name, arguments=arguments, id=call_id if isinstance(call_id, str) and call_id else None)


class CallKeys(msgspec.Struct, frozen=True, kw_only=True):
    """How an object describes a call of one of the tools that are `known`.

    ``{"name": …, "arguments": {…}}``, with `parameters` for `arguments` in some models, or around it all ``{"function":
    …}``. Arguments may be a JSON text, or missing if there are none.
    """

    known: Collection[str]
    name: str = "name"
    id: str = "id"
    arguments: str = "arguments"

    def read(self, source: CallSource, opened: str = "") -> Step[Any]:
        """Reads an object, as `CallSource.json` does; its arguments are passed on while they arrive, if they can be."""
        watch = None
        if source.sink is not None:
            keys = (self.arguments, "parameters")
            watch = CallPieces(source.sink, self.known, name_key=self.name, id_key=self.id, arguments_keys=keys)
        return (yield from source.json(opened, watch))

    def call(self, value: Any) -> ToolCall:
        """The call that a decoded object describes. Raises `ValueError`."""
        if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
            value = {self.id: value.get(self.id), **value["function"]}
        if not isinstance(value, Mapping):
            raise ValueError("it is not a JSON object")
        arguments = value.get(self.arguments, value.get("parameters"))
        return new_call(value.get(self.name), arguments, self.known, value.get(self.id))


def read_arguments(source: CallSource, name: str, known: Collection[str], call_id: str | None = None) -> Step[Any]:
    """Reads the arguments of a call, a JSON object; its name and its id, if any, are known already.

    They are passed on while they arrive, if that is wanted. Raises `ValueError` if they are no JSON.
    """
    watch = None
    if source.sink is not None and name in known:
        watch = ArgumentPieces(source.sink, name, call_id)
    return (yield from source.json(watch=watch))


def json_calls(source: CallSource, keys: CallKeys) -> Calls:
    """Reads one object or list of objects, or several with commas or semicolons between them.

    An object in a list that is no call stays text, and the others are calls. Raises `ValueError` if there is none.
    """
    yield from source.space()
    while True:
        if (yield from source.accept("[")):
            yield from json_list(source, keys)
        else:
            yield keys.call((yield from keys.read(source)))
        yield from source.space()
        if not (yield from source.accept(",", ";")) and (yield from source.peek()) != "{":
            return
        yield from source.space()


def json_list(source: CallSource, keys: CallKeys) -> Calls:
    """Reads the rest of a list after its opening bracket."""
    empty = True
    while True:
        yield from source.space()
        separator = yield from source.accept(",", "]")
        if separator == "]":
            if empty:
                raise ValueError("it is an empty list")
            return
        if not separator:
            value = yield from keys.read(source)
            empty = False
            try:
                made = keys.call(value)
            except ValueError as error:
                yield error
            else:
                yield made
