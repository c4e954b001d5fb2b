"""The packages of this Python environment, compared with what engines and converters need: `InstalledPackages`."""

from __future__ import annotations

import re
from importlib import metadata, util
from typing import TYPE_CHECKING

from corral.core.errors import PluginError
from corral.core.specs.installation import HasRequirements

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

__all__ = ("InstalledPackages",)

_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<versions>[<>=!~].*)")

_USUAL = re.compile(r"\s*[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*(==\d+(\.\d+)*(\.\*)?|>=\d+(\.\d+)*)\s*")
"""Matches requirements that are certainly valid."""


_VERSION = re.compile(r"^Version: (\S+)$", re.MULTILINE)


class InstalledPackages:
    """An `Installation`: distributions are found by their metadata, modules by their import specs."""

    def check(self, spec: HasRequirements) -> None:
        parts = spec.requirement.split("|") if spec.requirement is not None else []
        if not all(map(_USUAL.fullmatch, parts)):  # importing packaging would add 5 ms to every command
            _requirements(spec)

    def version(self, spec: HasRequirements) -> str | None:
        return next((version for _, version, _ in _installed(spec)), None)

    def missing(self, spec: HasRequirements) -> str:
        if spec.requirement is not None:
            found = _installed(spec)
            if not found:
                return f"{_requirements(spec)[0][0]} is not installed"
            if not any(accepted for _, _, accepted in found):
                distribution, version, _ = found[0]
                return f"{distribution} {version} is installed, {spec.requirement} is needed"
        absent = [name for name in (spec.module, *spec.needs) if name is not None and not _importable(name)]
        if not absent:
            return ""
        modules, are = ("modules", "are") if absent[1:] else ("module", "is")
        return f"the {modules} {', '.join(absent)} {are} not installed"


def _requirements(spec: HasRequirements) -> list[tuple[str, SpecifierSet]]:
    """Distributions and their versions, of which one is enough."""
    return [_parsed(one) for one in spec.requirement.split("|")] if spec.requirement is not None else []


def _parsed(requirement: str) -> tuple[str, SpecifierSet]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    match = _REQUIREMENT.fullmatch(requirement)
    try:
        if match is not None:
            return match["name"], SpecifierSet(match["versions"])
        cause = None
    except InvalidSpecifier as error:
        cause = error
    remedy = "write NAME==VERSION, NAME==VERSION.* or NAME>=VERSION"
    raise PluginError(f"invalid requirement {requirement!r}", remedy) from cause


def _installed(spec: HasRequirements) -> list[tuple[str, str, bool]]:
    """Name, version, and whether it is accepted, for each installed distribution; accepted ones first."""
    found = []
    for distribution, versions in _requirements(spec):
        try:
            version = _version(metadata.distribution(distribution))
        except metadata.PackageNotFoundError:
            continue
        found.append((distribution, version, _accepts(versions, version)))
    return sorted(found, key=lambda one: not one[2])


def _version(distribution: metadata.Distribution) -> str:
    """`metadata.version` parses a package's whole description for this one line."""
    head, _, _ = (distribution.read_text("METADATA") or "").partition("\n\n")
    found = _VERSION.search(head)
    return found[1] if found is not None else distribution.version


def _accepts(versions: SpecifierSet, version: str) -> bool:
    from packaging.version import InvalidVersion

    try:
        return versions.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _importable(module: str) -> bool:
    try:
        return util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
