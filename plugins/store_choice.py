"""Opens the stores that the settings ``store`` and ``store_layers`` select, by name or by address."""

from __future__ import annotations

import os

import msgspec

from corral.adapters.stores.layered_blobs import LayeredBlobs
from corral.adapters.stores.layered_manifests import LayeredManifests
from corral.adapters.stores.layered_upkeep import LayeredUpkeep
from corral.adapters.stores.layers import StoreLayer
from corral.core.errors import SettingsError
from corral.core.wording.left_out import remarks
from corral.plugins.hooks import STORES
from corral.plugins.manager import PluginManager
from corral.plugins.parts import make_part
from corral.plugins.settings.schema import Settings
from corral.plugins.specs import Stores, StoreSpec

__all__ = ("open_stores",)

_FOLDERS = "filesystem"
"""The store of an address that is just a path."""


def open_stores(settings: Settings, manager: PluginManager) -> Stores:
    """Blocks for as long as a plugin may take. Raises `SettingsError`, `PluginError` and what a factory raises."""
    upper = _opened("store", settings.store, settings, manager)
    if not settings.store_layers:
        return upper
    own = _layer(settings.store, upper)
    layers = [
        _layer(address, _opened(f"store_layers[{number}]", address, settings, manager))
        for number, address in enumerate(settings.store_layers)
    ]
    blobs = LayeredBlobs(own, layers)
    return Stores(
        blobs=blobs,
        manifests=LayeredManifests(own, layers),
        local=blobs,
        cache=upper.cache,
        upkeep=LayeredUpkeep(upper.upkeep, own, layers) if upper.upkeep is not None else None,
    )


def _layer(address: str, stores: Stores) -> StoreLayer:
    return StoreLayer(name=address, blobs=stores.blobs, manifests=stores.manifests, local=stores.local)


def _opened(setting: str, address: str, settings: Settings, manager: PluginManager) -> Stores:
    name, colon, place = (_FOLDERS, ":", address) if _is_path(address) else address.partition(":")
    spec = _spec(setting, name, manager)
    own = settings.parts[STORES.plural][name]
    if colon:
        if spec.address is None:
            raise SettingsError(f"{setting}: the store {name!r} takes no address", f"say {name} alone")
        if not place:
            raise SettingsError(f"{setting}: {address!r} is incomplete", f"say where: {name}:PLACE")
        own = msgspec.structs.replace(own, **{spec.address: place})
    return make_part(manager, STORES, spec, own)


def _spec(setting: str, name: str, manager: PluginManager) -> StoreSpec:
    specs = {spec.name: spec for spec in manager.specs(STORES)}
    if name not in specs:
        shown = ", ".join(known if spec.address is None else f"{known}[:PLACE]" for known, spec in specs.items())
        choices = f"choose one of {shown}, or a folder" if specs else "none is installed"
        raise SettingsError(f"{setting}: unknown name {name!r}", "; ".join((*remarks(manager.left_out, name), choices)))
    return specs[name]


def _is_path(address: str) -> bool:
    return address.startswith((".", "~")) or os.path.isabs(address)
