"""Command lines that install what is missing into the environment that Corral runs in."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from typing import Protocol

__all__ = ("install_line", "pip_line", "python_line")

_CORRAL = re.compile(r"corral\[(?P<extras>[^\]]+)\]")
_EXTRA = re.compile(r"""\s*(?:\band\b)?\s*\bextra\s*==\s*["'](?P<extra>[^"']+)["']""")
_PIP = ("pip", "install")


class Installable(Protocol):
    """The field of `EngineSpec` and `ConverterSpec` that says how its packages are installed."""

    @property
    def install_hint(self) -> str | None: ...


def python_line(*arguments: str) -> str:
    """A command that runs this Python, quoted for the system's shell. `arguments` are those of ``python``."""
    words = [sys.executable or "python", *arguments]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def pip_line(*requirements: str) -> str:
    """The command that installs `requirements` into this environment.

    An extra of Corral (``corral[onnx]``) is replaced by its packages: they can be installed from any folder, whether
    Corral itself came from an index, a clone or a wheel.
    """
    words = [word for requirement in requirements for word in _packages(requirement)]
    return python_line("-m", *_PIP, *dict.fromkeys(words))


def install_line(spec: Installable) -> str | None:
    """The command that installs what an engine or converter needs: its `install_hint`, rewritten by `pip_line` if it
    begins with ``pip install``, unchanged otherwise. None if it has none.
    """
    hint = spec.install_hint
    if hint is None:
        return None
    try:
        words = shlex.split(hint)
    except ValueError:
        return hint
    return pip_line(*words[2:]) if tuple(words[:2]) == _PIP else hint


def _packages(requirement: str) -> list[str]:
    match = _CORRAL.fullmatch(requirement)
    if match is None:
        return [requirement]
    extras = [extra.strip() for extra in match["extras"].split(",")]
    known = _extras()
    if not all(extra in known for extra in extras):
        return [requirement]
    return [package for extra in extras for package in known[extra]]


@cache
def _extras() -> dict[str, list[str]]:
    """The packages of each extra, from Corral's own metadata; empty if Corral is not installed as a package."""
    try:
        stated = metadata.requires("corral") or []
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, list[str]] = {}
    for requirement in stated:
        package, _, marker = requirement.partition(";")
        found = _EXTRA.search(marker)
        if found is None:
            continue
        # The rest of the marker stays with the package: pip also accepts markers on the command line.
        rest = _EXTRA.sub("", marker).strip().replace("'", '"')
        extras.setdefault(found["extra"], []).append(f"{package.strip()}; {rest}" if rest else package.strip())
    return extras
