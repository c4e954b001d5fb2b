"""The load options of an engine: decoded from their layers, compared, and those it does not have."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.containment import contained
from corral.core.errors import InvalidOption
from corral.core.specs.engines import EngineSpec

__all__ = ("fits", "ignored_load_options", "typed_load_options")

_log = logging.getLogger(__name__)


def typed_load_options(spec: EngineSpec, *layers: Mapping[str, Any]) -> Any:
    """The engine's own Struct, later layers winning and null meaning "not given"; None for an engine without options.

    Names that the engine does not have are passed over: they may be another engine's. Raises `InvalidOption`.
    """
    if spec.load_options is None:
        return None
    known = spec.load_options.__struct_fields__
    given = (one for layer in layers for one in layer.items())
    merged = {name: value for name, value in given if value is not None and name in known}
    try:
        return msgspec.convert(merged, spec.load_options, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"load options of the {spec.name} engine: {error}") from error


def ignored_load_options(spec: EngineSpec, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Those asked for that the engine does not have. `num_ctx` goes with each request too, which answers for it."""
    known = () if spec.load_options is None else spec.load_options.__struct_fields__
    return tuple(name for name in wanted if name not in known and name != "num_ctx")


def fits(spec: EngineSpec, loaded: Any, wanted: Any) -> bool:
    """Whether a model loaded with one set of options serves another without a reload."""
    if loaded == wanted or spec.fits is None:
        return bool(loaded == wanted)
    try:
        return bool(contained(spec.fits, loaded, wanted))
    except Exception:  # a plugin's fault costs another load, and nobody's request
        _log.exception("the %s engine's fits failed", spec.name)
        return False
