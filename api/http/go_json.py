"""Decodes request bodies as Go's encoding/json does, which is what clients of Ollama rely on.

Keys match whatever their case, unknown ones are ignored, null leaves a field as it was, bytes after the first value are
not looked at, and the complaints are Go's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from corral.api.http.errors import ApiError
from corral.api.http.go_syntax import GoSyntaxError, end_of_value
from corral.core.malformed import MALFORMED

__all__ = ("Body", "decode_body")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of request bodies. Every field has a default, Go's zero value. A subclass's name appears in error texts."""


BodyT = TypeVar("BodyT", bound=Body)

_decode = msgspec.json.Decoder().decode
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_GOT = re.compile(r"got `(\w+)`")
_INDEX = re.compile(r"\[[^\]]*\]")
_GO_KINDS = {"str": "string", "int": "number", "float": "number", "bool": "bool", "array": "array", "object": "object"}
_GO_TYPES = {str: "string", bool: "bool", int: "int", float: "float64", dict: "map[string]interface {}"}


def decode_body(data: bytes, kind: type[BodyT]) -> BodyT:
    """The body as a `kind`. Raises `ApiError` 400 with Go's text; an empty body is ``missing request body``."""
    if not data.strip():
        raise ApiError(400, "missing request body")
    value = _first_value(data)
    if value is None:  # Go leaves the struct as it is
        return kind()
    if not isinstance(value, dict):
        raise ApiError(400, f"json: cannot unmarshal {_go_kind(value)} into Go value of type api.{kind.__name__}")
    folded = _fold(value, kind)
    try:
        return msgspec.convert(folded, kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, _go_type_error(str(error), kind, folded)) from error


def _first_value(data: bytes) -> Any:
    try:
        return _decode(data)
    except MALFORMED:
        pass  # the slow way: find out where the first value ends, or what Go would say
    text = data.decode("utf-8", "replace")
    try:
        end = end_of_value(text)
        return _without_surrogates(json.loads(text[:end]))
    except GoSyntaxError as error:
        raise ApiError(400, str(error)) from error
    except RecursionError as error:
        raise ApiError(400, "exceeded max depth") from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise ApiError(400, f"json: cannot unmarshal number into Go value: {error}") from error


def _without_surrogates(value: Any) -> Any:
    """Half a surrogate pair is U+FFFD to Go; left in, the text could not be encoded again."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _fold(value: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Keys of structs in lower case and nulls left out, at every depth that is a struct; maps stay as they are."""
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


def _go_type_error(message: str, kind: type[Body], body: Mapping[str, Any]) -> str:
    """msgspec's ``Expected `bool`, got `str` - at `$.stream` `` in Go's words."""
    match = _AT.match(message)
    path = _INDEX.sub("", match["path"] or "") if match else ""
    got = _GOT.search(message)
    given = _GO_KINDS.get(got[1], got[1]) if got else "value"
    fields = path.strip(".")
    wanted = _go_type(kind, fields)
    if match and (match["path"] or "").endswith("]"):  # an element is wrong, not the list
        wanted = wanted.removeprefix("[]")
    if given == "number" and wanted == "int" and fields in body and not isinstance(body[fields], list):
        given += f" {json.dumps(body[fields])}"  # Go shows the number that is no int
    return f"json: cannot unmarshal {given} into Go struct field {kind.__name__}.{fields} of type {wanted}"


def _go_type(kind: type[msgspec.Struct], path: str) -> str:
    first, _, rest = path.partition(".")
    if rest:
        inner = _nested_structs(kind).get(first)
        return _go_type(inner, rest) if inner is not None else "string"
    hint = get_type_hints(kind).get(first, str)
    for candidate in (hint, *get_args(hint)):
        origin = getattr(candidate, "__origin__", candidate)
        if origin in _GO_TYPES:
            return _GO_TYPES[origin]
        if origin is tuple:
            item = get_args(candidate)[0]
            return f"[]api.{item.__name__}" if issubclass(item, msgspec.Struct) else f"[]{_GO_TYPES[item]}"
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return f"api.{candidate.__name__}"
    return "string"


def _go_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array"
