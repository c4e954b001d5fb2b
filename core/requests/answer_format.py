"""Reads `format`, the field with which clients say what an answer must look like: Ollama's two forms, and grammars."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from corral.core.errors import InvalidOption, InvalidRequest, MistypedOption
from corral.core.requests.requests import Constraint

__all__ = ("read_format",)

_MOST_CHOICES = 1000


def read_format(value: Any) -> Constraint | None:
    """``"json"`` means any JSON object; None and ``""`` mean no constraint. An object is a JSON Schema, unless its
    `type` is none of JSON Schema's: ``{"type": "gbnf", "grammar": …}``, the same with ``lark``,
    ``{"type": "regex", "pattern": …}``, ``{"type": "choice", "choices": […]}``.

    Raises `InvalidOption` with Ollama's text for anything else, `InvalidRequest` for a grammar without its text, and
    for a number that JSON does not have.
    """
    if value is None or value == "":
        return None
    if value == "json":
        return Constraint(kind="json_schema", source='{"type":"object"}')
    if isinstance(value, Mapping) and isinstance(kind := value.get("type"), str) and kind in _GRAMMARS:
        return _GRAMMARS[kind](value)
    is_schema = isinstance(value, Mapping)
    try:
        source = json.dumps(dict(value) if is_schema else value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:  # a number like 1e400, which has become infinity
        raise InvalidRequest(f"format: {error}", "numbers up to ±9007199254740992 are accepted") from error
    except (TypeError, RecursionError) as error:  # bytes passed to the library, or lists nested too deeply
        raise InvalidOption(f"invalid format: {error}; expected JSON") from error
    if is_schema:
        return Constraint(kind="json_schema", source=source)
    quoted = json.dumps(source, ensure_ascii=False)
    message = f'invalid format: {quoted}; expected "json" or a valid JSON Schema object'
    raise MistypedOption(message, quoted=quoted)


def _gbnf(value: Mapping[str, Any]) -> Constraint:
    return Constraint(kind="gbnf", source=_text(value, "grammar"))


def _lark(value: Mapping[str, Any]) -> Constraint:
    return Constraint(kind="lark", source=_text(value, "grammar"))


def _regex(value: Mapping[str, Any]) -> Constraint:
    return Constraint(kind="regex", source=_text(value, "pattern"))


def _choice(value: Mapping[str, Any]) -> Constraint:
    choices = _only(value, "choices")
    if not isinstance(choices, list | tuple) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise InvalidRequest("format: choices must be a list of texts, none of them empty")
    if len(choices) > _MOST_CHOICES:
        raise InvalidRequest(f"format: there are {len(choices)} choices; at most {_MOST_CHOICES} are accepted")
    return Constraint(kind="choice", source=json.dumps(list(choices), ensure_ascii=False))


_GRAMMARS: Mapping[str, Callable[[Mapping[str, Any]], Constraint]] = {
    "gbnf": _gbnf,
    "lark": _lark,
    "regex": _regex,
    "choice": _choice,
}


def _text(value: Mapping[str, Any], field: str) -> str:
    text = _only(value, field)
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f'format: a {value["type"]} needs its text in "{field}"')
    return text


def _only(value: Mapping[str, Any], field: str) -> Any:
    """The one field of a grammar besides its type. Others would be ignored, and mean something to whoever sent them."""
    for name in value:
        if name not in ("type", field):
            raise InvalidRequest(f"format: a {value['type']} has no {str(name)[:60]!r}", f'it has only "{field}"')
    return value.get(field)
