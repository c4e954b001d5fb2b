"""Which engine takes a model, in which runner, and with which load options."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corral.core.engines import EngineSpec
from corral.core.errors import InvalidOption, NoEngine
from corral.core.models import ModelMetadata, ModelRecord
from corral.core.ports.inference import Runner

__all__ = ("choose_engine", "choose_runner", "fits", "typed_load_options")


def choose_engine(
    specs: Sequence[EngineSpec], record: ModelRecord, metadata: ModelMetadata | None, name: str | None = None
) -> EngineSpec:
    """The engine of that name, whatever its `match` says; else the best match, those that are installed first.

    Equal scores: the earlier one. Raises `NoEngine`, with every engine's own reason.
    """
    if name is not None:
        for spec in specs:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in specs)
        raise NoEngine(f"no engine is called {name!r}", f"known engines: {known or 'none'}")
    matches = [(spec, spec.match(record, metadata)) for spec in specs]
    able = [(spec, match.score) for spec, match in matches if match.score > 0]
    if not able:
        reasons = "; ".join(f"{spec.name}: {match.reason}" for spec, match in matches)
        raise NoEngine(f"no engine takes {record.name.short} ({reasons or 'none is installed'})")
    return max(able, key=lambda item: (_installed(item[0]), item[1]))[0]


def _installed(spec: EngineSpec) -> bool:
    if spec.module is None:
        return True
    try:
        return importlib.util.find_spec(spec.module) is not None
    except (ImportError, ValueError):
        return False


def choose_runner(spec: EngineSpec, runners: Mapping[str, Runner], preferred: str) -> Runner:
    """The preferred runner where the engine allows it, else the first it allows. Raises `NoEngine`."""
    for name in (preferred, *spec.runners):
        if name in spec.runners and name in runners:
            return runners[name]
    raise NoEngine(f"the {spec.name} engine runs in {' or '.join(spec.runners)}, and no such runner is there")


def typed_load_options(spec: EngineSpec, *layers: Mapping[str, Any]) -> Any:
    """The engine's own Struct, later layers winning and null meaning "not given"; None for an engine without options.

    Names that the engine does not have are passed over: they may be another engine's. Raises `InvalidOption`.
    """
    if spec.load_options is None:
        return None
    merged = {name: value for layer in layers for name, value in layer.items() if value is not None}
    try:
        return msgspec.convert(merged, spec.load_options, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"load options of the {spec.name} engine: {error}") from error


def fits(spec: EngineSpec, loaded: Any, wanted: Any) -> bool:
    """Whether a model loaded with one set of options serves another without a reload."""
    return bool(loaded == wanted or (spec.fits is not None and spec.fits(loaded, wanted)))
