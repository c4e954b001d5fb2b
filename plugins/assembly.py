"""The composition root: the one place that knows every part, and builds the `Runtime` from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec

from corral.adapters.constraints.schema_checks import SchemaChecker
from corral.adapters.engine_kit.prefixes.prefix_disk import FolderPrefixDisk
from corral.adapters.engines.upstream.directory import ServerDirectory
from corral.adapters.runners.jobs import ProcessJobs
from corral.adapters.system.installed_packages import InstalledPackages
from corral.adapters.system.memory import free_memory
from corral.core.access.limits import RateLimits
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.garbage import GarbageCollector
from corral.core.catalog.verifying import StoreVerifier
from corral.core.containment import beside
from corral.core.conversion.checkpoints import CheckpointConversion
from corral.core.conversion.comparing import ModelComparer
from corral.core.conversion.converting import Converting
from corral.core.conversion.deriving import ModelDeriver
from corral.core.conversion.quantizing import WeightsQuantizer
from corral.core.conversion.tuning import ModelTuner
from corral.core.generation.background import BackgroundWork
from corral.core.generation.parser_choice import ParserChoice
from corral.core.generation.service import InferenceService
from corral.core.ports.authenticators import Authenticator
from corral.core.ports.registries import Registry
from corral.core.runtime import Runtime
from corral.core.scheduling.device_probe import DeviceProbe
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.scheduler import ModelScheduler
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.specs.engines import EngineSpec
from corral.plugins.engine_status import converter_status, engine_status
from corral.plugins.hook_kinds import HookKind
from corral.plugins.hook_specs import CommandSpec, StoreSpec
from corral.plugins.hooks import (
    ANSWER_PARSERS,
    AUTHENTICATORS,
    CHAT_LANGUAGES,
    COMMANDS,
    CONVERTERS,
    ENGINES,
    MANIFEST_FORMATS,
    METADATA_READERS,
    REGISTRIES,
    ROUTES,
    RUNNERS,
    SEARCH_PROVIDERS,
    SOURCES,
    STORES,
    TOOL_CALL_FORMATS,
)
from corral.plugins.loading import decode_settings, load_plugins
from corral.plugins.manager import PluginManager
from corral.plugins.parts import make_part, make_parts, make_selected, require_known, resolve_targets, try_out
from corral.plugins.private_files import own_keys, own_logins
from corral.plugins.response_store import response_store
from corral.plugins.settings.layers import Layers
from corral.plugins.settings.model_settings import ConfiguredCatalog, by_model
from corral.plugins.settings.reading import parse_assignment, read_layers
from corral.plugins.settings.schema import ServerSettings, Settings
from corral.plugins.settings.types import Address
from corral.plugins.specs import Stores, resolve
from corral.plugins.store_choice import StoreChooser
from corral.plugins.web_choice import web_access

__all__ = (
    "COMMANDS",
    "CONVERTERS",
    "ENGINES",
    "RUNNERS",
    "Address",
    "Assembly",
    "CommandSpec",
    "HookKind",
    "Layers",
    "PluginManager",
    "ServerSettings",
    "Settings",
    "Stores",
    "assemble",
    "decode_settings",
    "engine_chooser",
    "load_plugins",
    "open_stores",
    "parse_assignment",
    "read_layers",
    "resolve",
    "try_out",
)


_OPEN = "off"
"""The value of ``server.auth`` without which there is an authenticator."""


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime, the settings it was built from, and what plugins add to the server and to the command line."""

    runtime: Runtime
    settings: Settings
    manager: PluginManager

    def routers(self) -> list[Any]:
        """Imports the plugins' routers. One that is missing or not a router is recorded and left out."""
        routers = resolve_targets(self.manager, ROUTES)
        self.manager.warn()
        return routers

    async def authenticator(self) -> Authenticator | None:
        """The authenticator of a server with these settings, which the caller closes; None if everyone may use it.

        Raises `SettingsError` and `PluginError`.
        """
        name, own = self.settings.server.auth, self.settings.parts[AUTHENTICATORS.plural]
        if name == _OPEN:
            return None
        return await beside(partial(make_selected, self.manager, AUTHENTICATORS, name, own, "server.auth", _OPEN))

    async def aclose(self) -> None:
        """Unloads every model."""
        await self.runtime.aclose()


async def assemble(
    layers: Layers | None = None,
    *,
    default_runner: str = "process",
    manager: PluginManager | None = None,
) -> Assembly:
    """Builds a runtime, which the caller closes. Nothing is loaded and no process is started yet.

    By default, `layers` are read from the usual places, and the installed plugins are loaded into a new `manager`.
    Raises `SettingsError` and `PluginError`.
    """
    layers = read_layers() if layers is None else layers
    if manager is None:
        manager = await beside(partial(load_plugins, layers))  # loading a plugin may take long
    settings = decode_settings(layers, manager)
    engines = manager.specs(ENGINES)
    parts = await beside(partial(make_parts, manager, settings))
    stores = await beside(partial(open_stores, settings, manager, parts.of(REGISTRIES)))
    jobs, installed, specs = ProcessJobs(), InstalledPackages(), manager.specs(CONVERTERS)
    web = await beside(partial(web_access, manager, settings, SEARCH_PROVIDERS, jobs))
    runners = parts.of(RUNNERS)
    preferred = settings.scheduler.runner or default_runner
    require_known(preferred, runners, "scheduler.runner", manager)
    if settings.scheduler.engine is not None:
        require_known(settings.scheduler.engine, [spec.name for spec in engines], "scheduler.engine", manager)
    for name in settings.scheduler.engine_order:
        require_known(name, [spec.name for spec in engines], "scheduler.engine_order", manager)
    if settings.registry:
        schemes = [scheme for registry in parts.of(REGISTRIES).values() for scheme in registry.schemes]
        require_known(settings.registry, schemes, "registry", manager)
    formats = list(parts.of(MANIFEST_FORMATS).values())
    converting = Converting(
        manifests=stores.manifests, blobs=stores.blobs, local=stores.local, jobs=jobs, free_memory=free_memory
    )
    catalog = ModelCatalog(
        manifests=stores.manifests,
        blobs=stores.blobs,
        local=stores.local,
        formats=formats,
        readers=list(parts.of(METADATA_READERS).values()),
        sources=list(parts.of(SOURCES).values()),
        registries=list(parts.of(REGISTRIES).values()),
        default_registry=settings.registry or None,
        cache=stores.cache,
        upstreams=ServerDirectory(settings.engines.get("upstream", {})),
        left_out=manager.left_out,
        go_template=settings.go_template,
        preferred_formats=stores.preferred_formats,
        prune=settings.prune,
        quantizer=WeightsQuantizer(converting=converting, local=stores.local, converters=specs, installation=installed),
        checkpoints=CheckpointConversion(
            converting=converting,
            local=stores.local,
            converters=specs,
            installation=installed,
            settings=settings.converters,
        ),
    )
    deriver = ModelDeriver(
        models=catalog,
        manifests=stores.manifests,
        blobs=stores.blobs,
        local=stores.local,
        converting=converting,
        converters=specs,
        installation=installed,
        settings=settings.converters,
    )
    comparer = ModelComparer(models=catalog, jobs=jobs, engines=engines, free_memory=free_memory)
    tuner = ModelTuner(models=catalog, deriver=deriver, comparer=comparer, engines=engines)
    scheduler = ModelScheduler(
        chooser=engine_chooser(settings, manager, engines),
        runners=runners,
        preferred_runner=preferred,
        catalog=catalog,
        settings=SchedulerSettings(
            keep_alive_s=settings.scheduler.keep_alive.keep_alive_s,
            max_loaded=settings.scheduler.max_loaded_models,
            max_queue=settings.scheduler.max_queue,
            load_timeout_s=settings.scheduler.load_timeout.limit_s,
            engine=settings.scheduler.engine,
        ),
        free_memory=free_memory,
        deriver=deriver,
        cache_folder=None if stores.cache_folder is None else str(stores.cache_folder),
        tune_later=tuner.tune_later,
    )
    manager.warn()
    limits = RateLimits()
    inference = InferenceService(
        catalog=ConfiguredCatalog(catalog, by_model(settings.models)),
        scheduler=scheduler,
        languages=parts.of(CHAT_LANGUAGES),
        go_template=settings.go_template,
        checker=SchemaChecker(),
        parsers=ParserChoice(parts.of(ANSWER_PARSERS), parts.of(TOOL_CALL_FORMATS)),
        limits=limits,
    )
    runtime = Runtime(
        catalog=catalog,
        scheduler=scheduler,
        inference=inference,
        deriver=deriver,
        comparer=comparer,
        tuner=tuner,
        devices=DeviceProbe(engines=engines, jobs=jobs),
        garbage=GarbageCollector(
            manifests=stores.manifests, blobs=stores.blobs, local=stores.local, upkeep=stores.upkeep
        ),
        verifier=StoreVerifier(manifests=stores.manifests, blobs=stores.blobs, formats=formats, upkeep=stores.upkeep),
        logins=own_logins(settings.parts[REGISTRIES.plural].get("oci")),
        web=web,
        responses=response_store(settings.responses),
        keys=own_keys(settings.parts[AUTHENTICATORS.plural].get("keys")),
        limits=limits,
        background=BackgroundWork(limits),
        prefixes=FolderPrefixDisk(stores.cache_folder),
        version=version("corral"),
        registries=tuple(parts.of(REGISTRIES).values()),
        engines=tuple(engine_status(spec, installed) for spec in engines),
        converters=tuple(converter_status(spec, installed) for spec in specs),
        plugins=manager.statuses,
    )
    return Assembly(runtime=runtime, settings=settings, manager=manager)


def engine_chooser(
    settings: Settings, manager: PluginManager, engines: Sequence[EngineSpec] | None = None
) -> EngineChooser:
    """The engine chooser of a runtime with these settings, among the registered engines unless `engines` is given."""
    return EngineChooser(
        manager.specs(ENGINES) if engines is None else engines,
        manager.specs(CONVERTERS),
        installation=InstalledPackages(),
        order=settings.scheduler.engine_order,
        left_out=manager.left_out,
        settings=settings.engines,
        yielding=settings.yielding,
    )


def open_stores(settings: Settings, manager: PluginManager, registries: Mapping[str, Registry]) -> Stores:
    """The stores that the settings select. Blocks for as long as a plugin may take. Raises `SettingsError`."""

    def make(spec: StoreSpec, own: msgspec.Struct) -> Stores:
        if spec.registry is None:
            return make_part(manager, STORES, spec, own)
        require_known(spec.registry, list(registries), f"the registry of the store {spec.name}", manager)
        return make_part(manager, STORES, spec, own, registries[spec.registry])

    chooser = StoreChooser(manager.specs(STORES), settings.parts[STORES.plural], make, manager.left_out)
    return chooser.open(settings.store, settings.store_layers)
