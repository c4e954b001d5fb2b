"""The composition root: the one place that knows every part, and builds the `Runtime` out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from corral.adapters.engines.upstream.directory import ServerDirectory
from corral.adapters.memory import free_memory
from corral.adapters.runners.jobs import ProcessJobs
from corral.core.catalog import ModelCatalog
from corral.core.deriving import ModelDeriver
from corral.core.devices import DeviceProbe
from corral.core.engines import EngineSpec
from corral.core.errors import SettingsError
from corral.core.generation import InferenceService
from corral.core.leases import SchedulerSettings
from corral.core.ports.inference import Runner
from corral.core.runtime import Runtime
from corral.core.scheduling import ModelScheduler
from corral.plugins.engine_status import converter_status, engine_status
from corral.plugins.layers import Layers, parse_assignment, read_layers
from corral.plugins.manager import PluginManager
from corral.plugins.model_settings import ConfiguredCatalog, by_model
from corral.plugins.setting_types import Address
from corral.plugins.settings import Settings
from corral.plugins.specs import CommandSpec, LazySpec, RouteSpec, Stores, build, resolve

__all__ = (
    "Address",
    "Assembly",
    "CommandSpec",
    "Layers",
    "PluginManager",
    "Settings",
    "Stores",
    "assemble",
    "decode_settings",
    "load_plugins",
    "parse_assignment",
    "read_layers",
    "resolve",
)


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime, the settings it was built from, and what plugins add to the server and to the command line."""

    runtime: Runtime
    settings: Settings
    routes: tuple[RouteSpec, ...] = ()
    commands: tuple[CommandSpec, ...] = ()

    def routers(self) -> list[Any]:
        """Imports the plugins' routers. Raises `PluginError` for one that is not there."""
        return [resolve(route.target) for route in self.routes]

    async def aclose(self) -> None:
        """Unloads every model."""
        await self.runtime.aclose()


def load_plugins(layers: Layers) -> PluginManager:
    """The installed plugins that the settings let in. Raises `SettingsError` for those settings themselves."""
    wanted = layers.plugins()
    manager = PluginManager(allow=wanted.allow, block=wanted.block)
    manager.load_entry_points()
    return manager


def decode_settings(layers: Layers, manager: PluginManager) -> Settings:
    """The effective settings, with the sections of all registered specs. Raises `SettingsError`."""
    return layers.decode(
        engines={spec.name: spec.load_options for spec in manager.engines()},
        converters={spec.name: spec.parameters for spec in manager.converters()},
        runners=_structs(manager.runners()),
        stores=_structs(manager.stores()),
        sources=_structs(manager.sources()),
        complete=manager.complete,
    )


async def assemble(
    layers: Layers | None = None,
    *,
    default_runner: str = "process",
    manager: PluginManager | None = None,
    stores: Stores | None = None,
    engines: Sequence[EngineSpec] | None = None,
) -> Assembly:
    """Builds a runtime; whoever called closes it. Nothing is loaded and no process is started yet.

    `layers` are read from the usual places if not given. `manager`, `stores` and `engines` replace what would be found:
    a test hands in stores of its own and only the fake engine. Raises `SettingsError` and `PluginError`.
    """
    layers = read_layers() if layers is None else layers
    manager = load_plugins(layers) if manager is None else manager
    settings = decode_settings(layers, manager)
    engines = manager.engines() if engines is None else engines
    stores = _open_store(settings, manager) if stores is None else stores
    runners: dict[str, Runner] = _made(manager, "corral_register_runners", manager.runners(), settings.runners)
    preferred = settings.scheduler.runner or default_runner
    _require(preferred, runners, "scheduler.runner", manager)
    if settings.scheduler.engine is not None:
        _require(settings.scheduler.engine, [spec.name for spec in engines], "scheduler.engine", manager)
    for name in settings.scheduler.engine_order:
        _require(name, [spec.name for spec in engines], "scheduler.engine_order", manager)
    catalog = ModelCatalog(
        manifests=stores.manifests,
        blobs=stores.blobs,
        local=stores.local,
        formats=list(_made(manager, "corral_register_manifest_formats", manager.manifest_formats()).values()),
        readers=list(_made(manager, "corral_register_metadata_readers", manager.metadata_readers()).values()),
        sources=list(_made(manager, "corral_register_sources", manager.sources(), settings.sources).values()),
        cache=stores.cache,
        upstreams=ServerDirectory(settings.engines.get("upstream", {})),
    )
    jobs = ProcessJobs()
    deriver = ModelDeriver(
        models=catalog,
        manifests=stores.manifests,
        blobs=stores.blobs,
        local=stores.local,
        jobs=jobs,
        converters=manager.converters(),
        free_memory=free_memory,
        settings=settings.converters,
    )
    scheduler = ModelScheduler(
        engines=engines,
        runners=runners,
        preferred_runner=preferred,
        catalog=catalog,
        settings=SchedulerSettings(
            keep_alive_s=settings.scheduler.keep_alive.keep_alive_s,
            max_loaded=settings.scheduler.max_loaded_models,
            max_queue=settings.scheduler.max_queue,
            load_timeout_s=settings.scheduler.load_timeout.limit_s,
            engine=settings.scheduler.engine,
            engine_order=settings.scheduler.engine_order,
        ),
        engine_settings=settings.engines,
        free_memory=free_memory,
        deriver=deriver,
    )
    models = by_model(settings.models)
    inference = InferenceService(
        catalog=ConfiguredCatalog(catalog, models),
        scheduler=scheduler,
        templates=list(_made(manager, "corral_register_chat_templates", manager.chat_templates()).values()),
    )
    runtime = Runtime(
        catalog=catalog,
        scheduler=scheduler,
        inference=inference,
        deriver=deriver,
        devices=DeviceProbe(engines=engines, jobs=jobs),
        version=version("corral"),
        engines=tuple(engine_status(spec) for spec in engines),
        converters=tuple(converter_status(spec) for spec in manager.converters()),
        plugins=manager.statuses,
    )
    return Assembly(runtime=runtime, settings=settings, routes=manager.routes(), commands=manager.commands())


def _structs(specs: Sequence[LazySpec]) -> dict[str, type[msgspec.Struct] | None]:
    return {spec.name: spec.settings for spec in specs}


def _open_store(settings: Settings, manager: PluginManager) -> Stores:
    known = {spec.name: spec for spec in manager.stores()}
    _require(settings.store, known, "store", manager)
    opened = build(known[settings.store], settings.stores.get(settings.store))
    if not isinstance(opened, Stores):
        raise SettingsError(f"the store {settings.store!r} gave {type(opened).__name__} instead of Stores")
    return opened


def _made(
    manager: PluginManager, hook: str, specs: Sequence[LazySpec], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the specs name, by name. One of a plugin's that fails is recorded and left out: the others do their work."""
    made: dict[str, Any] = {}
    for spec in specs:
        try:
            made[spec.name] = build(spec, (settings or {}).get(spec.name))
        except SettingsError:
            raise
        except Exception as fault:
            if not manager.failed(hook, spec.name, fault):
                raise
    return made


def _require(name: str, known: Sequence[str] | dict[str, Any], path: str, manager: PluginManager) -> None:
    if name not in known:
        skipped = ", ".join(status.name for status in manager.statuses if status.state != "loaded")
        raise SettingsError(
            f"{path}: there is no {name!r}",
            f"choose one of {', '.join(known) or 'none'}"
            + (f"; corral plugins tells why it skipped {skipped}" if skipped else ""),
        )
