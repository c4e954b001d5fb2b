"""Describes engines and converters, and whether they can run here, without importing them."""

from __future__ import annotations

import msgspec

from corral.core.runtime import ConverterStatus, EngineStatus, OptionHelp
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.core.specs.installation import Installation
from corral.core.wording.pip_lines import install_line
from corral.core.wording.type_names import type_name

__all__ = ("converter_status", "engine_status")


def engine_status(spec: EngineSpec, installation: Installation) -> EngineStatus:
    """The engine, and whether the packages that it needs are installed in the right versions."""
    reason = installation.missing(spec)
    return EngineStatus(
        name=spec.name,
        summary=spec.summary,
        available=not reason,
        reason=reason,
        install_hint=install_line(spec),
        version=installation.version(spec),
        tasks=tuple(sorted(spec.tasks)),
        takes=spec.takes,
        runners=spec.runners,
        load_options=_option_help(spec.load_options),
    )


def converter_status(spec: ConverterSpec, installation: Installation) -> ConverterStatus:
    """The converter, and whether the packages that it needs are installed."""
    reason = installation.missing(spec)
    return ConverterStatus(
        name=spec.name,
        summary=spec.summary,
        available=not reason,
        reason=reason,
        install_hint=install_line(spec),
        parameters=_option_help(spec.parameters),
    )


def _option_help(options: type[msgspec.Struct] | None) -> tuple[OptionHelp, ...]:
    if options is None:
        return ()
    return tuple(
        OptionHelp(name=field.encode_name, kind=type_name(field.type), default=_default(field))
        for field in msgspec.structs.fields(options)
    )


def _default(field: msgspec.structs.FieldInfo) -> str:
    """The default as JSON; empty if the field has none."""
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return ""
    return msgspec.json.encode(value, enc_hook=str).decode()
