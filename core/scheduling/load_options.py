"""Decodes and compares the load options of an engine."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corral.core.choices import choices_of, in_listed_case
from corral.core.containment import contained
from corral.core.errors import InvalidOption
from corral.core.giving_way import fewest_given_up
from corral.core.malformed import mistyped
from corral.core.specs.engines import EngineSpec
from corral.core.values import Value

__all__ = ("YieldingOption", "fits", "ignored_load_options", "settled_load_options", "typed_load_options")

_log = logging.getLogger(__name__)


class YieldingOption(Value, frozen=True, kw_only=True):
    """A load option among the settings that gives way to what contradicts it: `variable` set it, and `instead` is what
    the settings say without that; None if nothing.
    """

    variable: str
    instead: Any = None


def settled_load_options(
    spec: EngineSpec,
    settings: Mapping[str, Any],
    asked: Mapping[str, Any],
    yielding: Mapping[str, YieldingOption] = {},
) -> Any:
    """As `typed_load_options` of both layers. Settings that are `yielding` are given up if what is asked contradicts
    them: as few as possible, and of as many, the later ones.
    """

    def without(names: Iterable[str]) -> Mapping[str, Any]:
        return {**settings, **{name: yielding[name].instead for name in names}}

    def fault_without(names: Iterable[str]) -> InvalidOption | None:
        try:
            typed_load_options(spec, without(names), asked)
        except InvalidOption as fault:
            return fault
        return None

    given_up = fewest_given_up([name for name in yielding if asked.get(name) is None], fault_without)
    for name, fault in given_up.items():
        _log.info("%s is ignored: %s", yielding[name].variable, fault.reason)
    return typed_load_options(spec, without(given_up), asked)


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
