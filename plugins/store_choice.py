"""Opens the stores that the settings ``store`` and ``store_layers`` select, by name or by address."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from corral.adapters.stores.layered_blobs import LayeredBlobs
from corral.adapters.stores.layered_manifests import LayeredManifests
from corral.adapters.stores.layered_upkeep import LayeredUpkeep
from corral.adapters.stores.layers import StoreLayer
from corral.core.errors import SettingsError
from corral.core.wording.left_out import remarks
from corral.plugins.specs import AddressedSpec, Stores

__all__ = ("StoreChooser",)

Spec = TypeVar("Spec", bound=AddressedSpec)

_FOLDERS = "filesystem"
"""The store of an address that is just a path."""


class StoreChooser(Generic[Spec]):
    """Opens stores among `specs`. `make` calls the factory of one, with its settings, in which the address was put.

    `left_out` says why plugins are missing, for errors. Everything blocks for as long as a plugin may take, and raises
    `SettingsError`, `PluginError` and what a factory raises.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        settings: Mapping[str, msgspec.Struct],
        make: Callable[[Spec, msgspec.Struct], Stores],
        left_out: Mapping[str, str],
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._settings = settings
        self._make = make
        self._left_out = left_out

    def open(self, store: str, layers: Sequence[str]) -> Stores:
        """The store that the setting ``store`` selects, above those that ``store_layers`` selects."""
        upper = self._opened("store", store)
        if not layers:
            return upper
        own = _layer(store, upper)
        below = [_layer(text, self._opened(f"store_layers[{number}]", text)) for number, text in enumerate(layers)]
        blobs = LayeredBlobs(own, below)
        return Stores(
            blobs=blobs,
            manifests=LayeredManifests(own, below),
            local=blobs,
            cache=upper.cache,
            upkeep=LayeredUpkeep(upper.upkeep, own, below) if upper.upkeep is not None else None,
            preferred_formats=upper.preferred_formats,
            cache_folder=upper.cache_folder,
        )

    def _opened(self, setting: str, address: str) -> Stores:
        name, colon, place = (_FOLDERS, ":", address) if _is_path(address) else address.partition(":")
        spec = self._spec(setting, name)
        own = self._settings[name]
        if colon:
            if spec.address is None:
                raise SettingsError(f"{setting}: the store {name!r} takes no address", f"say {name} alone")
            if not place:
                raise SettingsError(f"{setting}: {address!r} is incomplete", f"say where: {name}:PLACE")
            own = msgspec.structs.replace(own, **{spec.address: place})
        return self._make(spec, own)

    def _spec(self, setting: str, name: str) -> Spec:
        if name not in self._specs:
            shown = [known if spec.address is None else f"{known}[:PLACE]" for known, spec in self._specs.items()]
            choices = f"choose one of {', '.join(shown)}, or a folder" if shown else "none is installed"
            raise SettingsError(
                f"{setting}: unknown name {name!r}", "; ".join((*remarks(self._left_out, name), choices))
            )
        return self._specs[name]


def _layer(address: str, stores: Stores) -> StoreLayer:
    return StoreLayer(name=address, blobs=stores.blobs, manifests=stores.manifests, local=stores.local)


def _is_path(address: str) -> bool:
    return address.startswith((".", "~")) or os.path.isabs(address)
