"""Calls the functions of an engine's spec and checks what they return: they may be a plugin's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.core.containment import contained, short_line
from corral.core.errors import CorralError, LoadFailed, PluginError
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.specs.engines import Derivation, EngineSpec, Match

__all__ = ("check_match", "estimate_bytes")


def estimate_bytes(
    spec: EngineSpec, record: StoredModel, metadata: ModelMetadata | None, options: Any
) -> Mapping[str, int]:
    """The bytes that the engine expects the model to take, by device.

    Raises `LoadFailed` if the engine fails to answer: a load of unknown size could take all memory.
    """
    try:
        estimate = contained(spec.estimate, record, metadata, options)
        return {_device(device): _byte_count(count) for device, count in estimate.items()}
    except Exception as error:
        if isinstance(error, CorralError) and not isinstance(error, PluginError):
            raise  # an intended refusal
        said = f"{type(error).__name__}: {short_line(error)}"
        raise LoadFailed(
            f"the {spec.name} engine's estimate for {record.name.short} failed: {said}",
            "this is a bug in the engine's plugin; another engine may run the model",
        ) from error


def _device(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a device name must be a string, not {short_line(repr(name), 60)}")
    return name


def _byte_count(count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < 1 << 62:
        raise ValueError(f"bytes must be a number of 0 or more, not {short_line(repr(count), 60)}")
    return int(count)


def check_match(match: object) -> Match:
    """The match, with its reason in one line. Raises `TypeError` for anything that cannot be used as one."""
    if not isinstance(match, Match):
        raise TypeError(f"it gave {short_line(repr(match), 60)} instead of a Match")
    if isinstance(match.score, bool) or not isinstance(match.score, int | float) or not -1e9 < match.score < 1e9:
        raise TypeError(f"its score is {short_line(repr(match.score), 60)}")
    if match.derive is not None:
        _check_derivation(match.derive)
    return Match(score=match.score, reason=short_line(match.reason), derive=match.derive)


def _check_derivation(derive: object) -> None:
    if not isinstance(derive, Derivation):
        raise TypeError(f"its derive is {short_line(repr(derive), 60)} instead of a Derivation")
    if not isinstance(derive.converter, str):
        raise TypeError(f"its converter is {short_line(repr(derive.converter), 60)}")
    if not isinstance(derive.parameters, Mapping) or not all(isinstance(name, str) for name in derive.parameters):
        raise TypeError(f"its parameters are {short_line(repr(derive.parameters), 60)}")
