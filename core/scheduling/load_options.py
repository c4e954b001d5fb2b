"""Decodes and compares the load options of an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.choices import choices_of, in_listed_case
from corral.core.containment import contained
from corral.core.errors import InvalidOption
from corral.core.malformed import mistyped
from corral.core.specs.engines import EngineSpec

__all__ = ("fits", "ignored_load_options", "typed_load_options")

_log = logging.getLogger(__name__)


def typed_load_options(spec: EngineSpec, *layers: Mapping[str, Any]) -> Any:
    """The options as the engine's own Struct; None for an engine without options.

    Later layers override earlier ones, and null means "not given". Unknown names are skipped, because another engine
    may know them. Raises `InvalidOption` for a value that an option cannot have, and for options that contradict each
    other, if the Struct says so: nothing has been loaded or unloaded then.
    """
    if spec.load_options is None:
        return None
    known = spec.load_options.__struct_fields__
    given = (one for layer in layers for one in layer.items())
    merged = {name: value for name, value in given if value is not None and name in known}
    try:
        return msgspec.convert(in_listed_case(merged, spec.load_options), spec.load_options, strict=False)
    except msgspec.ValidationError as error:
        message = f"load options of the {spec.name} engine: {error}"
        raise InvalidOption(message, _remedy(error, spec.load_options), quoted=mistyped(error).quoted) from error


def _remedy(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str | None:
    if isinstance(error.__cause__, InvalidOption):  # of options that contradict each other
        return error.__cause__.remedy
    choices = choices_of(kind, mistyped(error).path.removeprefix("."))
    return f"choose one of {', '.join(choices)}" if choices else None


def ignored_load_options(spec: EngineSpec, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """The requested options that the engine does not have, except `num_ctx`, which is also part of each request."""
    known = () if spec.load_options is None else spec.load_options.__struct_fields__
    return tuple(name for name in wanted if name not in known and name != "num_ctx")


def fits(spec: EngineSpec, loaded: Any, wanted: Any) -> bool:
    """Whether a model loaded with one set of options serves another without a reload."""
    if loaded == wanted or spec.fits is None:
        return bool(loaded == wanted)
    try:
        return bool(contained(spec.fits, loaded, wanted))
    except Exception:  # a faulty plugin costs another load, but no request
        _log.exception("the %s engine's fits failed", spec.name)
        return False
