"""Decodes request bodies as Go's encoding/json does, which is what clients of Ollama rely on.

Keys match in any case, unknown ones are ignored, null leaves a field unchanged, bytes after the first value are not
read, and the error texts are Go's.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.json_shape import MOST_DEPTH, JsonShape
from corral.core.go.json_syntax import GoSyntaxError, end_of_value
from corral.core.malformed import MALFORMED, Mistyped, mistyped

__all__ = ("UNKNOWN", "Body", "decode_body", "decode_plain")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of request bodies. Every field has a default, Go's zero value. A subclass's name appears in error texts.

    `max_body_bytes` is a limit in addition to the server's; None means no such limit. `media_fields` contain images or
    sound at any depth, which do not count as text. A body with `keeps_unknown` has a field whose name in JSON is
    `UNKNOWN`: the names of the fields that it does not have, but the client sent.
    """

    max_body_bytes: ClassVar[int | None] = None
    media_fields: ClassVar[frozenset[str]] = frozenset()
    keeps_unknown: ClassVar[bool] = False

    def check(self) -> None:
        """Raises `ApiError` if something is out of bounds. Called once, after decoding."""


BodyT = TypeVar("BodyT", bound=Body)

UNKNOWN = "$unknown"
"""What a client sends in a field of this name is dropped."""

_decode = msgspec.json.Decoder().decode
_INDEX = re.compile(r"\[[^\]]*\]")
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_FIRST_BYTES = {"[": "array", '"': "string", "t": "bool", "f": "bool"}
_LOOKED_AT_BYTES = 64 * 1024
_MOST_MENDED_BYTES = 4 * 1024 * 1024
_SLICE_BYTES = 16 * 1024
_GO_KINDS = {"str": "string", "int": "number", "float": "number", "bool": "bool", "array": "array", "object": "object"}
_GO_TYPES = {str: "string", bool: "bool", int: "int", float: "float64", dict: "map[string]interface {}"}


def decode_plain(data: bytes | bytearray, kind: type[BodyT]) -> BodyT | None:
    """Decodes plain, valid JSON. Returns None for anything else, which `decode_body` may still accept.

    Raises `ApiError` as `decode_body` does.
    """
    try:
        value = _decode(data)
    except MALFORMED:
        return None
    return _as_body(value, kind)


def decode_body(
    data: bytes | bytearray, kind: type[BodyT], *, is_counted: bool = False, is_whole: bool = True
) -> BodyT:
    """The body as a `kind`. Raises `ApiError` 400 with Go's text; an empty body is ``missing request body``.

    `is_counted` means that the values have been counted (`JsonShape`) and are few enough. If not `is_whole`, the client
    sent more after the first value, or after something that is not an object.
    """
    if not data.strip():
        raise ApiError(400, "missing request body")
    if not is_counted and data.count(b"{") + data.count(b"[") > MOST_DEPTH:
        JsonShape().feed(data)
    return _as_body(_first_value(data, kind, is_whole=is_whole), kind)


def _as_body(value: Any, kind: type[BodyT]) -> BodyT:
    if value is None:  # Go leaves the struct as it is
        return kind()
    if not isinstance(value, dict):
        raise _not_an_object(_go_kind(value), kind)
    folded = _fold(value, kind)
    if kind.keeps_unknown:
        folded[UNKNOWN] = [name for name in folded if name not in kind.__struct_encode_fields__]
    try:
        body = msgspec.convert(folded, kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, _go_type_error(mistyped(error), kind, folded)) from error
    body.check()
    return body


def _first_value(data: bytes | bytearray, kind: type[Body], *, is_whole: bool) -> Any:
    """Decodes the first value: cuts off what follows it, and replaces what Go would read as U+FFFD."""
    mends_left = 2  # one for bytes, one for escapes, whichever is found first
    while True:
        try:
            return _decode(data)
        except RecursionError:
            raise ApiError(400, "exceeded max depth") from None
        except MALFORMED as error:
            if not isinstance(data, bytearray):
                data = bytearray(data)
            if trailing := _TRAILING.search(str(error)):
                del data[int(trailing[1]) - 1 :]
                continue
            mended = _mended(data, error) if mends_left and len(data) <= _MOST_MENDED_BYTES else None
            if mended is None:
                raise _complaint(data, error, kind, is_whole=is_whole) from error
            data, mends_left = mended, mends_left - 1


def _mended(data: bytearray, error: Exception) -> bytearray | None:
    """Replaces invalid UTF-8 and lone surrogate escapes by U+FFFD. None if neither can be the problem."""
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
        data = _as_utf8(data)
    elif b"\\u" not in data:
        return None
    at = 0
    while (at := data.find(b"\\u", at)) >= 0:
        start = at
        while data[start - 1 : start] == b"\\":
            start -= 1
        is_escape = (at - start) % 2 == 0  # an escaped backslash does not start an escape
        surrogate = _SURROGATE.match(data, at) if is_escape else None
        at = surrogate.end() if surrogate else at + 2
        if surrogate and surrogate["half"]:
            data[at - 6 : at] = rb"\ufffd"  # the same length
    return data


def _as_utf8(data: bytearray) -> bytearray:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    mended = bytearray()
    for at in range(0, len(data), _SLICE_BYTES):
        mended += decoder.decode(data[at : at + _SLICE_BYTES]).encode()
        time.sleep(0)  # lets other threads run: replacing is slow and holds the interpreter lock
    return mended + decoder.decode(b"", True).encode()


def _complaint(data: bytearray, error: Exception, kind: type[Body], *, is_whole: bool) -> ApiError:
    """Go's error text if the problem is near the beginning. Finding it is slow, so msgspec's text is used otherwise."""
    is_whole = is_whole and len(data) <= _LOOKED_AT_BYTES
    try:
        end_of_value(data[:_LOOKED_AT_BYTES].decode("utf-8", "replace"))
    except GoSyntaxError as syntax:
        if is_whole or not syntax.is_end:
            return ApiError(400, str(syntax))
    first = data.lstrip()[:1].decode("latin-1")
    if first != "{":
        return _not_an_object(_FIRST_BYTES.get(first, "number"), kind)
    if isinstance(error, msgspec.ValidationError):  # a number that is not a float64 in Go either
        return ApiError(400, "json: cannot unmarshal number into Go value of type float64")
    return ApiError(400, f"invalid JSON: {error}")


def _not_an_object(go_kind: str, kind: type[Body]) -> ApiError:
    return ApiError(400, f"json: cannot unmarshal {go_kind} into Go value of type api.{_go_name(kind)}")


def _fold(value: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Lower-cases the keys of structs and drops nulls, at every level that is a struct. Maps are left unchanged."""
    nested = _nested_structs(kind)
    folded: dict[str, Any] = {}
    for key, item in value.items():
        name = key.lower()
        inner = nested.get(name)
        if inner is not None and isinstance(item, list):
            item = [_fold(entry, inner) if isinstance(entry, dict) else entry for entry in item if entry is not None]
        elif inner is not None and isinstance(item, dict):
            item = _fold(item, inner)
        if item is not None:
            folded[name] = item
    return folded


@cache
def _nested_structs(kind: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {}
    for name, hint in get_type_hints(kind).items():
        for candidate in (hint, *get_args(hint)):
            if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
                found[name] = candidate
    return found


def _go_type_error(error: Mistyped, kind: type[Body], body: Mapping[str, Any]) -> str:
    """msgspec's ``Expected `bool`, got `str` - at `$.stream` `` in Go's words."""
    given = _GO_KINDS.get(error.given, error.given) if error.given else "value"
    fields = _INDEX.sub("", error.path).strip(".")
    owner, wanted = _go_owner_and_type(kind, fields, is_item=error.path.endswith("]"))
    if given == "number" and wanted == "int" and (number := _not_an_int(body, fields.split("."))) is not None:
        given += f" {json.dumps(number)}"  # Go shows a number that is not an int
    return f"json: cannot unmarshal {given} into Go struct field {owner}.{fields} of type {wanted}"


def _not_an_int(value: Any, path: list[str]) -> float | None:
    """The first number at the path that is not an int, in any element of the lists on the way."""
    if isinstance(value, list):
        return next((number for item in value if (number := _not_an_int(item, path)) is not None), None)
    if path and isinstance(value, dict):
        return _not_an_int(value.get(path[0]), path[1:])
    return value if isinstance(value, float) and not path else None


def _go_owner_and_type(kind: type[msgspec.Struct], path: str, *, is_item: bool) -> tuple[str, str]:
    """The struct that Go names in an error about a field, and the type of the field, or of its elements.

    That is the innermost struct around it, but none inside one that decodes itself (`decodes_itself`). The types are
    those of `go_types`, if it has the field.
    """
    owner, is_inside = _go_name(kind), False
    first, _, rest = path.partition(".")
    while rest and (inner := _nested_structs(kind).get(first)) is not None:
        kind = inner
        is_inside = is_inside or getattr(kind, "decodes_itself", False)
        owner = owner if is_inside else _go_name(kind)
        first, _, rest = rest.partition(".")
    own: Mapping[str, tuple[str, str]] = getattr(kind, "go_types", {})
    if first in own:
        return owner, own[first][is_item]
    wanted = _go_type(kind, first)
    return owner, wanted.removeprefix("[]").removeprefix("map[string]") if is_item else wanted


def _go_type(kind: type[msgspec.Struct], field: str) -> str:
    hints = get_type_hints(kind)
    hint = next((hints[one.name] for one in msgspec.structs.fields(kind) if one.encode_name == field), str)
    for candidate in (hint, *get_args(hint)):
        origin = getattr(candidate, "__origin__", candidate)
        if origin is dict and get_args(candidate)[1:] == (str,):
            return "map[string]string"
        if origin in _GO_TYPES:
            return _GO_TYPES[origin]
        if origin is tuple:
            item = get_args(candidate)[0]
            item = getattr(item, "__origin__", item)
            if isinstance(item, type) and issubclass(item, msgspec.Struct):
                return f"[]api.{_go_name(item)}"
            return f"[]{_GO_TYPES.get(item, 'object')}"
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return f"api.{_go_name(candidate)}"
    return "string"


def _go_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array"


def _go_name(kind: type[Any]) -> str:
    """Ollama's name of the struct, which appears in its error texts."""
    name: str = getattr(kind, "go_name", kind.__name__)
    return name
