"""What pluggy needs to know: the project's name, the marker of hooks, and a signature for each kind in the table."""

from __future__ import annotations

from typing import Any, Final

import pluggy

from corral.plugins.hook_kinds import HookKind
from corral.plugins.hooks import HOOKS
from corral.plugins.registrar import Registrar

__all__ = ("PROJECT", "HookSpecs", "hookimpl")

PROJECT: Final = "corral"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a hook of a plugin: ``@hookimpl`` above ``def corral_register_engines(register): …``."""


def _signature(kind: HookKind[Any]) -> Any:
    def hook(register: Registrar[Any]) -> None:
        raise NotImplementedError

    hook.__name__, hook.__doc__ = kind.hook, kind.doc
    return pluggy.HookspecMarker(PROJECT)(hook)


HookSpecs: Final = type("HookSpecs", (), {kind.hook: _signature(kind) for kind in HOOKS})
"""A function for each hook, as pluggy reads them from a class."""
