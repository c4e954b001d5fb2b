"""The settings ``store`` and ``store_layers``: names, addresses and folders."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.api.library import AsyncCorral
from corral.core.errors import InvalidRequest, PluginError, SettingsError
from corral.core.models.names import parse_name
from corral.plugins.assembly import decode_settings, load_plugins, open_stores, read_layers
from corral.plugins.hook_checks import check_address
from corral.plugins.hook_specs import StoreSpec
from corral.plugins.hooks import STORES
from corral.plugins.manager import PluginManager
from corral.plugins.pluggy_markers import hookimpl
from corral.plugins.registrar import Registrar
from corral.plugins.specs import Stores
from corral.plugins.stores import memory

M = parse_name("m")


class ShelfSettings(msgspec.Struct, frozen=True, kw_only=True):
    place: str = "the usual shelf"
    colour: str = "red"


SEEN: list[ShelfSettings] = []


def shelf(settings: ShelfSettings) -> Stores:
    SEEN.append(settings)
    return memory()


class ShelfPlugin:
    CORRAL_PLUGIN_API = (1, 0)

    @hookimpl
    def corral_register_stores(self, register: Registrar[StoreSpec]) -> None:
        register(StoreSpec(name="shelf", target=f"{__name__}:shelf", settings=ShelfSettings, address="place"))


def _opened(**flags: Any) -> Stores:
    layers = read_layers("", environment={}, flags=flags)
    manager = load_plugins(layers)
    manager.register(ShelfPlugin(), "shelves")
    return open_stores(decode_settings(layers, manager), manager, {})


def test_an_address_says_where_the_models_are(tmp_path: Path) -> None:
    """The name of a store, a colon and a place; a folder alone is one in Ollama's layout."""
    for store, written in (
        (f"filesystem:{tmp_path}/a", "a/manifests"),
        (f"{tmp_path}/b", "b/manifests"),
        (f"oci-layout:{tmp_path}/c", "c/index.json"),
    ):
        asyncio.run(_opened(store=store).manifests.put(M, b"1"))
        assert (tmp_path / written).exists()


def test_a_plugin_s_store_has_addresses_too() -> None:
    """What follows its name is the setting that its spec names; without an address, the settings are as they are."""
    SEEN.clear()
    _opened(store="shelf://upper/left", **{"stores.shelf.colour": "blue"})
    _opened(store="shelf")
    assert [ShelfSettings(place="//upper/left", colour="blue"), ShelfSettings()] == SEEN


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("memory:here", "takes no address"),
        ("oci-layout:", "is incomplete"),
        ("nowhere:x", "unknown name 'nowhere'"),
        ("nowhere", "unknown name 'nowhere'"),
    ],
)
def test_what_is_no_store_is_an_error(store: str, message: str) -> None:
    """The error names the setting and the value, also for a layer."""
    with pytest.raises(SettingsError, match=message):
        _opened(store=store)
    with pytest.raises(SettingsError, match=message):
        _opened(store="memory", store_layers=[store])


def test_layers_are_read_below_the_store(tmp_path: Path) -> None:
    """`store_layers` are addresses as well, and may be of different kinds."""

    async def scenario() -> None:
        await _opened(store=f"{tmp_path}/a").manifests.put(M, b"1")
        await _opened(store=f"oci-layout:{tmp_path}/b").manifests.put(parse_name("n"), b"2")
        stores = _opened(store="memory", store_layers=[f"{tmp_path}/a", f"oci-layout:{tmp_path}/b"])
        assert sorted([entry.name.model async for entry in stores.manifests.list()]) == ["m", "n"]

    asyncio.run(scenario())


def test_an_address_needs_a_setting_of_type_str() -> None:
    """A spec whose `address` is not a text among its settings is refused when it is registered."""
    for kind, address in ((None, "place"), (ShelfSettings, "size")):
        with pytest.raises(PluginError, match=address):
            check_address(StoreSpec(name="shelf", target="a:b", settings=kind, address=address))
    assert STORES.check is check_address


def test_variables_and_the_library_choose_a_store(tmp_path: Path) -> None:
    """``CORRAL_STORE``, ``CORRAL_STORE_LAYERS`` and the keyword `store`; a folder for another store is an error."""
    environment = {"CORRAL_STORE": "oci-layout:/x", "CORRAL_STORE_LAYERS": "/a, oci-layout:/b"}
    settings = decode_settings(read_layers("", environment=environment), PluginManager())
    assert (settings.store, settings.store_layers) == ("oci-layout:/x", ("/a", "oci-layout:/b"))

    async def scenario() -> None:
        async with AsyncCorral(store=f"oci-layout:{tmp_path}/layout", config="") as corral:
            assert await corral.list() == []
        with pytest.raises(InvalidRequest, match="models"):
            AsyncCorral(store="memory", models=tmp_path, config="")

    asyncio.run(scenario())


def test_settings_outside_of_sections_have_types() -> None:
    """A variable sets a flag outside of any section, and a mistyped value is an error with its path."""
    assert read_layers("", environment={"CORRAL_GO_TEMPLATE": "1"}).decode().go_template is True
    with pytest.raises(SettingsError, match=r"^store_layers: Expected `array`"):
        read_layers("", environment={}, flags={"store_layers": "one"}).decode()
