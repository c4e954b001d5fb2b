"""The composed application, as one struct of use cases: what `plugins/assembly.py` builds and `api` serves."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from corral.core.access.limits import RateLimits
from corral.core.access.models import CallerModels
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.garbage import GarbageCollector
from corral.core.catalog.verifying import StoreVerifier
from corral.core.conversion.comparing import ModelComparer
from corral.core.conversion.deriving import ModelDeriver
from corral.core.conversion.tuning import ModelTuner
from corral.core.errors import CorralError
from corral.core.generation.background import BackgroundWork
from corral.core.generation.service import InferenceService
from corral.core.models.names import ModelName
from corral.core.ports.access_keys import AccessKeys
from corral.core.ports.logins import RegistryLogins
from corral.core.ports.prefixes import PrefixDisk
from corral.core.ports.registries import Registry
from corral.core.ports.responses import ResponseStore
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.scheduling.device_probe import DeviceProbe
from corral.core.scheduling.scheduler import ModelScheduler
from corral.core.values import Value
from corral.core.web.access import WebAccess

__all__ = ("ConverterStatus", "EngineStatus", "OptionHelp", "PluginStatus", "Runtime")


class OptionHelp(Value, frozen=True, kw_only=True):
    """An engine's option, or a converter's parameter (`kind`: its type), for `corral engines` and the docs."""

    name: str
    kind: str
    default: str


class EngineStatus(Value, frozen=True, kw_only=True):
    """A registered engine. `reason` says why it is not available; `version` is the native package's.

    `tasks` are those it may support, `takes` says what it runs.
    """

    name: str
    summary: str
    available: bool
    reason: str = ""
    install_hint: str | None = None
    version: str | None = None
    tasks: tuple[str, ...] = ()
    takes: str = ""
    runners: tuple[str, ...] = ()
    load_options: tuple[OptionHelp, ...] = ()


class ConverterStatus(Value, frozen=True, kw_only=True):
    """An installed converter; fields as in `EngineStatus`."""

    name: str
    summary: str
    available: bool
    reason: str = ""
    install_hint: str | None = None
    parameters: tuple[OptionHelp, ...] = ()


class PluginStatus(Value, frozen=True, kw_only=True):
    """A plugin found. `state` is ``loaded``, ``blocked``, ``broken`` or ``incompatible``; `reason` says why."""

    name: str
    state: str
    reason: str = ""
    distribution: str | None = None
    version: str | None = None
    provides: tuple[str, ...] = ()


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `api` needs. Closed by whoever assembled it. Without `responses`, none are kept."""

    catalog: ModelCatalog
    scheduler: ModelScheduler
    inference: InferenceService
    deriver: ModelDeriver
    comparer: ModelComparer
    tuner: ModelTuner
    devices: DeviceProbe
    garbage: GarbageCollector
    verifier: StoreVerifier
    logins: RegistryLogins
    keys: AccessKeys
    prefixes: PrefixDisk
    version: str
    background: BackgroundWork[Any]
    responses: ResponseStore | None = None
    web: WebAccess = msgspec.field(default_factory=WebAccess)
    limits: RateLimits = msgspec.field(default_factory=RateLimits)
    registries: tuple[Registry, ...] = ()
    engines: tuple[EngineStatus, ...] = ()
    converters: tuple[ConverterStatus, ...] = ()
    plugins: tuple[PluginStatus, ...] = ()

    def models_for(self, caller: Caller) -> CallerModels:
        """The models as this caller may see and change them: what a route asks instead of `catalog`."""
        return CallerModels(caller, self.catalog, self.scheduler)

    async def delete(self, name: ModelName) -> None:
        """Deletes a model, and closes the connections of an upstream, which no timer would. Raises `ModelNotFound`."""
        await self.models_for(ANONYMOUS).delete(name)

    async def aclose(self) -> None:
        """Ends what runs in the background, unloads every model, and closes the registries' connections; returns when
        the memory is free."""
        await self.background.aclose()
        await self.tuner.aclose()
        await self.scheduler.aclose()
        self.inference.close()
        with suppress(CorralError):  # a plugin's
            await self.web.aclose()
        for registry in self.registries:
            with suppress(CorralError):  # a plugin's; the others are closed all the same
                await registry.aclose()
