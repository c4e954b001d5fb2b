"""Reads tool calls that models write as JSON objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_values import decoded
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.requests.messages import ToolCall
from corral.core.wording.clipping import clipped

__all__ = ("call_of", "json_calls", "json_list", "known_name", "new_call")


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


def call_of(
    value: Any, known: Collection[str], *, name_key: str = "name", id_key: str = "id", arguments_key: str = "arguments"
) -> ToolCall:
    """The call that a decoded object describes. Raises `ValueError`.

    ``{"name": …, "arguments": {…}}``, with `parameters` for `arguments` in some models, or around it all ``{"function":
    …}``. Arguments may be a JSON text, or missing if there are none.
    """
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = {id_key: value.get(id_key), **value["function"]}
    if not isinstance(value, Mapping):
        raise ValueError("it is not a JSON object")
    arguments = value.get(arguments_key, value.get("parameters"))
    return new_call(value.get(name_key), arguments, known, value.get(id_key))


def json_calls(source: CallSource, call: Callable[[Any], ToolCall]) -> Calls:
    """Reads one object or list of objects, or several with commas or semicolons between them, which `call` turns into
    calls.

    An object in a list that is no call stays text, and the others are calls. Raises `ValueError` if there is none.
    """
    yield from source.space()
    while True:
        if (yield from source.accept("[")):
            yield from json_list(source, call)
        else:
            yield call((yield from source.json()))
        yield from source.space()
        if not (yield from source.accept(",", ";")) and (yield from source.peek()) != "{":
            return
        yield from source.space()


def json_list(source: CallSource, call: Callable[[Any], ToolCall]) -> Calls:
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
            value = yield from source.json()
            empty = False
            try:
                made = call(value)
            except ValueError as error:
                yield error
            else:
                yield made
