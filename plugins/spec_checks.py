"""Checks that the fields of a spec have their annotated types, so that mistakes are found early."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.plugins.settings.types import decode_setting_type, encode_setting_type

__all__ = ("checked_spec",)

S = TypeVar("S", bound=msgspec.Struct)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_IMPORT_PATHS = ("convert", "devices", "load", "target", "vocabulary")
_SETTINGS = ("load_options", "parameters", "settings")
_LONGEST_TEXT = 1000


def checked_spec(spec: S, spec_type: type[S], kind: str) -> S:
    """The spec as an instance of exactly `spec_type`. Raises `PluginError` that names the wrong field."""
    values = {name: getattr(spec, name) for name in spec_type.__struct_fields__}
    name = values["name"]
    if not isinstance(name, str) or not name:
        raise PluginError(f"{kind} needs a name, not {name!r:.100}")
    if _NAME.fullmatch(name) is None:
        raise PluginError(
            f"{kind} {short_line(repr(name), 80)}: not a valid name",
            "letters, digits, dots, hyphens and underscores, 64 at most",
        )
    for field, annotation in _annotations(spec_type).items():
        wrong = _wrong(values[field], annotation)
        if wrong:
            raise PluginError(f"{kind} {name!r}: {field}: {wrong}")
        if isinstance(values[field], str):
            _check_text(f"{kind} {name!r}: {field}", field, values[field])
    for field in _SETTINGS:
        if values.get(field) is not None:
            _check_settings(f"{kind} {name!r}: {field}", values[field])
    return spec if type(spec) is spec_type else spec_type(**values)


@cache
def _annotations(spec_type: type[msgspec.Struct]) -> Mapping[str, Any]:
    hints = get_type_hints(spec_type)
    return {name: hints[name] for name in spec_type.__struct_fields__}


def _wrong(value: Any, annotation: Any) -> str:
    """What is wrong with a value of this type; empty if nothing is."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        wrongs = [_wrong(value, one) for one in arguments if one is not type(None)]
        return "" if (value is None and type(None) in arguments) or "" in wrongs else wrongs[0]
    if origin is type or (origin is tuple and get_origin(arguments[0]) is type):
        base = get_args(annotation if origin is type else arguments[0])[0]
        classes = (value,) if origin is type else value if isinstance(value, tuple) else (None,)
        fine = all(isinstance(one, type) and issubclass(one, base) for one in classes)
        return "" if fine else f"expected a class of {base.__name__}, got {short_line(repr(value), 60)}"
    if origin is Callable:
        return _wrong_function(value, len(arguments[0]))
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError as fault:
        return f"{fault}: {short_line(repr(value), 60)}"
    return ""


def _wrong_function(value: Any, arguments: int) -> str:
    if not callable(value):
        return f"expected a function, got {short_line(repr(value), 60)}"
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # implemented in C, without a signature
        return ""
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return f"expected a function of {arguments} arguments, got one of {short_line(signature, 60)}"
    return ""


def _check_text(where: str, field: str, text: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise PluginError(f"{where}: a text of {len(text)} characters, {_LONGEST_TEXT} at most")
    if not text.isprintable():
        raise PluginError(f"{where}: control characters in {short_line(repr(text), 60)}")
    if field in _IMPORT_PATHS and _IMPORT_PATH.fullmatch(text) is None:
        raise PluginError(f"{where}: invalid import path {text[:100]!r}", "write it as package.module:attribute")


def _check_settings(where: str, kind: type[msgspec.Struct]) -> None:
    """A section of the settings is decoded by `kind` and shown: both must work if nothing is set."""
    try:
        _try_out(kind)
    except Exception as fault:
        raise PluginError(
            f"{where}: {kind.__name__} cannot be created without values: {short_line(fault, 120)}",
            "give every field a default, of a type that settings can have",
        ) from fault


@cache
def _try_out(kind: type[msgspec.Struct]) -> None:
    get_type_hints(kind, include_extras=True)
    msgspec.to_builtins(msgspec.convert({}, kind, dec_hook=decode_setting_type), enc_hook=encode_setting_type)
