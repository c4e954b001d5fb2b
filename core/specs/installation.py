"""Whether the packages that an engine or a converter needs are installed, found out without importing them."""

from __future__ import annotations

import re
from importlib import metadata, util
from typing import Protocol

from corral.core.errors import PluginError

__all__ = ("HasRequirements", "installed_version", "missing_packages", "parse_requirement", "requirements")

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<sign>==|>=)(?P<version>[0-9][A-Za-z0-9.!+_-]*?)(?P<any>\.\*)?"
)


class HasRequirements(Protocol):
    """The fields of `EngineSpec` and `ConverterSpec` that say what must be installed.

    A `requirement` may name distributions of which one will do, ``|`` between them, the usual one first.
    """

    @property
    def requirement(self) -> str | None: ...
    @property
    def module(self) -> str | None: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


def parse_requirement(requirement: str) -> tuple[str, re.Pattern[str] | tuple[int, ...]]:
    """The distribution, and which versions of it: a pattern (``NAME==VERSION[.*]``) or the least (``NAME>=VERSION``).

    A local version (``0.3.36+cu124``) is the same version. Raises `PluginError`.
    """
    match = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if match is None or (match["sign"] == ">=" and match["any"]):
        raise PluginError(
            f"invalid requirement {requirement!r}", "an engine pins its package: NAME==VERSION[.*], or NAME>=VERSION"
        )
    if match["sign"] == ">=":
        return match["name"], _numbers(match["version"])
    more = r"(\..*)?" if match["any"] else ""
    return match["name"], re.compile(re.escape(match["version"]) + more + r"(\+.*)?")


def requirements(spec: HasRequirements) -> list[tuple[str, re.Pattern[str] | tuple[int, ...]]]:
    """The distributions of which it needs one, as `parse_requirement`; none where it needs none."""
    return [parse_requirement(one) for one in spec.requirement.split("|")] if spec.requirement is not None else []


def installed_version(spec: HasRequirements) -> str | None:
    """The version of the distribution that it requires; None where it requires none or it is not installed."""
    return next((version for _, version, _ in _installed(spec)), None)


def missing_packages(spec: HasRequirements) -> str:
    """Why it cannot run here, in words; empty where everything is there."""
    if spec.requirement is not None:
        found = _installed(spec)
        if not found:
            return f"{requirements(spec)[0][0]} is not installed"
        if not any(accepted for _, _, accepted in found):
            distribution, version, _ = found[0]
            return f"{distribution} {version} is installed, {spec.requirement} is needed"
    absent = [name for name in (spec.module, *spec.needs) if name is not None and not _importable(name)]
    if absent:
        return (
            f"the module{'s' if absent[1:] else ''} {', '.join(absent)} {'are' if absent[1:] else 'is'} not installed"
        )
    return ""


def _installed(spec: HasRequirements) -> list[tuple[str, str, bool]]:
    """Distribution, version, and whether that will do, of those that are installed; the ones that will do first."""
    found = []
    for distribution, versions in requirements(spec):
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        found.append((distribution, version, _accepts(versions, version)))
    return sorted(found, key=lambda one: not one[2])


def _accepts(versions: re.Pattern[str] | tuple[int, ...], version: str) -> bool:
    if isinstance(versions, tuple):
        return _numbers(version) >= versions
    return versions.fullmatch(version) is not None


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: ``1.17.0rc1`` is 1, 17, 0."""
    return tuple(int(number) for number in re.findall(r"(?:^|(?<=\.))\d+", version.partition("+")[0]))


def _importable(module: str) -> bool:
    try:
        return util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
