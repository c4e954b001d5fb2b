"""Which engines this installation can run, found out without importing them."""

from __future__ import annotations

import re
from importlib import metadata, util

import msgspec

from corral.core.engines import EngineSpec
from corral.core.errors import PluginError
from corral.core.runtime import EngineStatus, OptionHelp

__all__ = ("engine_status", "parse_requirement")

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[0-9][A-Za-z0-9.!+_-]*?)(?P<any>\.\*)?")


def parse_requirement(requirement: str) -> tuple[str, re.Pattern[str]]:
    """The distribution and the versions it may have: ``NAME==VERSION``, which may end with ``.*``.

    A local version (``0.3.36+cu124``) is the same version. Raises `PluginError`.
    """
    match = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if match is None:
        raise PluginError(
            f"invalid requirement {requirement!r}", "an engine pins its native package: NAME==VERSION[.*]"
        )
    more = r"(\..*)?" if match["any"] else ""
    return match["name"], re.compile(re.escape(match["version"]) + more + r"(\+.*)?")


def engine_status(spec: EngineSpec) -> EngineStatus:
    """Whether the engine's native package is there, in a version that its adapter takes."""
    version, reason = None, ""
    if spec.requirement is not None:
        distribution, versions = parse_requirement(spec.requirement)
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            reason = f"{distribution} is not installed"
        else:
            if versions.fullmatch(version) is None:
                reason = f"{distribution} {version} is installed, {spec.requirement} is needed"
    if not reason and spec.module is not None and util.find_spec(spec.module.partition(".")[0]) is None:
        reason = f"the module {spec.module} is not installed"
    return EngineStatus(
        name=spec.name,
        summary=spec.summary,
        available=not reason,
        reason=reason,
        install_hint=spec.install_hint,
        version=version,
        runners=spec.runners,
        load_options=_option_help(spec.load_options),
    )


def _option_help(options: type[msgspec.Struct] | None) -> tuple[OptionHelp, ...]:
    if options is None:
        return ()
    defaults = options()
    return tuple(
        OptionHelp(
            name=field.encode_name,
            kind=_type_name(field.type),
            default=msgspec.json.encode(getattr(defaults, field.name), enc_hook=str).decode(),
        )
        for field in msgspec.structs.fields(options)
    )


def _type_name(kind: object) -> str:
    return (
        kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind).replace("typing.", "")
    )
