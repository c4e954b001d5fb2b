"""Loads the installed plugins that the settings allow, and then the settings of what they register."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from corral.plugins.hooks import HOOKS
from corral.plugins.manager import PluginManager
from corral.plugins.settings.layers import Layers
from corral.plugins.settings.schema import Settings

__all__ = ("decode_settings", "load_plugins")


def load_plugins(layers: Layers, commands: Iterable[str] = ()) -> PluginManager:
    """Loads the installed plugins that the settings allow. Raises `SettingsError` if these settings are invalid.

    `commands` are the names of Corral's own commands, which no plugin may use.
    """
    wanted = layers.plugins()
    limit_s = wanted.load_timeout.limit_s
    manager = PluginManager(
        allow=wanted.allow,
        block=wanted.block,
        limit_s=limit_s if limit_s < threading.TIMEOUT_MAX else None,
        commands=commands,
    )
    manager.load_entry_points()
    return manager


def decode_settings(layers: Layers, manager: PluginManager) -> Settings:
    """The effective settings, with the sections of all registered specs. Raises `SettingsError`."""
    registered = {
        kind.plural: {spec.name: kind.settings_of(spec) for spec in manager.specs(kind)}
        for kind in HOOKS
        if kind.settings is not None
    }
    return layers.decode(registered, complete=manager.complete)
