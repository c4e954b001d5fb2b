"""The functions that chat templates may call: Go's own, and those of Ollama."""

from __future__ import annotations

import datetime
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from corral.adapters.templates.go.comparing import equal, less, less_or_equal
from corral.adapters.templates.go.encoding import json_text
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.printing import printable, sprint, sprintf, sprintln
from corral.adapters.templates.go.strings import byte_length, cut_bytes, rewritten, to_bytes
from corral.adapters.templates.go.values import (
    GoMap,
    GoPointer,
    GoSlice,
    GoStruct,
    Uint8,
    fail,
    is_true,
    type_name,
    unboxed,
)
from corral.core.requests.typed_text import TypedText, unmarked

__all__ = ("FUNCTIONS", "Calling", "TemplateFunction")


class Calling(NamedTuple):
    """What functions need besides their arguments."""

    limits: Limits
    typed: TypedText


class TemplateFunction(NamedTuple):
    """A function, and how many arguments it takes: `most` None for any number.

    `texts` is how many of the first must be strings. `raw`: it gets values of type ``any`` as they are.
    """

    call: Callable[[Calling, Sequence[Any]], Any]
    least: int
    most: int | None
    texts: int = 0
    raw: bool = False


def _index(_: Calling, arguments: Sequence[Any]) -> Any:
    item = arguments[0]
    if unboxed(item) is None:
        fail("index of untyped nil")
    for index in arguments[1:]:
        item, index = _pointed_to(item, "index"), unboxed(index)
        if isinstance(item, str | GoSlice):
            item = _element(item, index)
        elif isinstance(item, GoMap):
            if index is None:
                fail("value is nil; should be of type string")
            if not isinstance(index, str):
                fail(f"value has type {type_name(index)}; should be string")
            item = item.get(unmarked(index))
        else:
            fail(f"can't index item of type {type_name(item)}")
    return item


def _element(item: str | GoSlice, index: Any) -> Any:
    if isinstance(item, GoSlice):
        position = _position(index, len(item.items))
        return item.at(position) if position < len(item.items) else fail("reflect: slice index out of range")
    data = to_bytes(item)
    position = _position(index, len(data))
    return Uint8(data[position]) if position < len(data) else fail("reflect: string index out of range")


def _slice(calling: Calling, arguments: Sequence[Any]) -> Any:
    item, indexes = arguments[0], arguments[1:]
    if unboxed(item) is None:
        fail("slice of untyped nil")
    item = _pointed_to(item, "slice")
    if len(indexes) > 3:
        fail(f"too many slice indexes: {len(indexes)}")
    if isinstance(item, str):
        if len(indexes) == 3:
            fail("cannot 3-index slice a string")
        length = capacity = byte_length(item)
        calling.limits.text(length)
    elif isinstance(item, GoSlice):
        length = len(item.items)
        capacity = length + len(item.spare)
        calling.limits.step(1 + capacity // 512)
    else:
        fail(f"can't slice item of type {type_name(item)}")
    ends = [0, length]
    ends[: len(indexes)] = [_position(index, capacity) for index in indexes]  # Go does not unbox them
    for left, right in pairwise(ends):
        if left > right:
            fail(f"invalid slice index: {left} > {right}")
    start, end = ends[:2]
    if isinstance(item, str):
        return cut_bytes(item, start, end)
    whole = [*item.items, *item.spare] if item.spare else item.items
    return item.part(whole[start:end], whole[end : ends[2] if len(ends) > 2 else None])


def _position(index: Any, limit: int) -> int:
    if index is None:
        fail("cannot index slice/array with nil")
    if isinstance(index, bool) or not isinstance(index, int):
        fail(f"cannot index slice/array with type {type_name(index)}")
    if not 0 <= index <= limit:
        fail(f"index out of range: {index}")
    return index


def _pointed_to(item: Any, verb: str) -> Any:
    item = unboxed(item)
    if isinstance(item, GoPointer):
        item = item.to
    if item is None:
        fail(f"{verb} of nil pointer")
    return item


def _len(_: Calling, arguments: Sequence[Any]) -> int:
    item = arguments[0]
    if item is None:
        fail("reflect: call of reflect.Value.Type on zero Value")
    item = _pointed_to(item, "len")
    if isinstance(item, str):
        return byte_length(item)
    if isinstance(item, GoSlice):
        return len(item.items)
    if isinstance(item, GoMap):
        return len(item.entries)
    return fail(f"len of type {type_name(item)}")


def _call(_: Calling, arguments: Sequence[Any]) -> Any:
    if arguments[1] is None:
        fail("call of nil")
    fail(f"non-function {arguments[0]} of type {type_name(arguments[1])}")


def _shown(calling: Calling, arguments: Sequence[Any]) -> str:
    return sprint([printable(argument) for argument in arguments], calling.limits)


_HTML = str.maketrans({'"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\ufffd"})
_SCRIPT = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _html(calling: Calling, arguments: Sequence[Any]) -> str:
    text = _shown(calling, arguments)
    calling.limits.text(5 * len(text))
    return rewritten(text, lambda piece: piece.translate(_HTML))


def _js(calling: Calling, arguments: Sequence[Any]) -> str:
    text = _shown(calling, arguments)
    calling.limits.text(6 * len(text))
    return rewritten(text, lambda piece: "".join(map(_in_script, piece)))


def _in_script(character: str) -> str:
    if character in _SCRIPT:
        return _SCRIPT[character]
    if character.isprintable() or character == "\x7f" or 0xDC80 <= ord(character) <= 0xDCFF:
        return character
    return f"\\u{ord(character):04X}"


def _urlquery(calling: Calling, arguments: Sequence[Any]) -> str:
    text = _shown(calling, arguments)
    calling.limits.text(3 * len(text))
    return urllib.parse.quote_plus(to_bytes(text), safe="~")


def _json(calling: Calling, arguments: Sequence[Any]) -> str:
    return calling.typed.text(json_text(arguments[0], calling.limits))


def _day(days_ago: int) -> str:
    return str(_today() - datetime.timedelta(days=days_ago))


def _today() -> datetime.date:
    return datetime.date.today()


def _type_script(_: Calling, arguments: Sequence[Any]) -> str:
    value = arguments[0].to if isinstance(arguments[0], GoPointer) else arguments[0]
    if isinstance(value, GoStruct) and "ToTypeScriptType" in value.methods:
        return str(value.methods["ToTypeScriptType"](value))
    return "any"


def _printf(calling: Calling, arguments: Sequence[Any]) -> str:
    return sprintf(arguments[0], arguments[1:], calling.limits)


FUNCTIONS: Mapping[str, TemplateFunction] = {
    # The evaluator itself computes `and` and `or`, whose arguments may remain unevaluated.
    "and": TemplateFunction(lambda _, arguments: arguments[-1], 1, None, raw=True),
    "or": TemplateFunction(lambda _, arguments: arguments[-1], 1, None, raw=True),
    "call": TemplateFunction(_call, 1, None),
    "eq": TemplateFunction(lambda calling, args: equal(args[0], args[1:], calling.limits), 1, None),
    "ge": TemplateFunction(lambda calling, args: not less(args[0], args[1], calling.limits), 2, 2),
    "gt": TemplateFunction(lambda calling, args: not less_or_equal(args[0], args[1], calling.limits), 2, 2),
    "html": TemplateFunction(_html, 0, None),
    "index": TemplateFunction(_index, 1, None, raw=True),
    "js": TemplateFunction(_js, 0, None),
    "le": TemplateFunction(lambda calling, args: less_or_equal(args[0], args[1], calling.limits), 2, 2),
    "len": TemplateFunction(_len, 1, 1, raw=True),
    "lt": TemplateFunction(lambda calling, args: less(args[0], args[1], calling.limits), 2, 2),
    "ne": TemplateFunction(lambda calling, args: not equal(args[0], args[1:], calling.limits), 2, 2),
    "not": TemplateFunction(lambda _, args: not is_true(args[0]), 1, 1),
    "print": TemplateFunction(lambda calling, args: sprint(args, calling.limits), 0, None),
    "printf": TemplateFunction(_printf, 1, None, texts=1),
    "println": TemplateFunction(lambda calling, args: sprintln(args, calling.limits), 0, None),
    "slice": TemplateFunction(_slice, 1, None, raw=True),
    "urlquery": TemplateFunction(_urlquery, 0, None),
    "currentDate": TemplateFunction(lambda _, args: _day(0), 0, None, texts=99),
    "json": TemplateFunction(_json, 1, 1),
    "toTypeScriptType": TemplateFunction(_type_script, 1, 1),
    "yesterdayDate": TemplateFunction(lambda _, args: _day(1), 0, None, texts=99),
}
