"""Imports the object that an import path, ``package.module:name``, refers to."""

from __future__ import annotations

import importlib
from functools import reduce
from typing import Any

from corral.core.errors import PluginError

__all__ = ("import_name",)


def import_name(path: str) -> Any:
    """The object that ``package.module:name`` refers to; the name may be dotted. Raises `PluginError` if there is no
    such name.

    Errors from importing the module are passed on: the caller explains a missing package.
    """
    module, separator, name = path.partition(":")
    if not (module and separator and name):
        raise PluginError(f"invalid import path {path!r}", "write it as package.module:attribute")
    imported = importlib.import_module(module)
    try:
        return reduce(getattr, name.split("."), imported)
    except AttributeError as error:
        raise PluginError(f"{module} has no {name!r}") from error
