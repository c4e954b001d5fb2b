"""Loads models on demand, lends them, and unloads those that are not needed: `ModelScheduler`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from corral.core.errors import ServerBusy
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.view import ModelView
from corral.core.ports.loadable_models import LoadableModels
from corral.core.ports.runners import Runner
from corral.core.ports.running import Task
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.scheduling.engine_choice import Candidate, EngineChooser, choose_runner
from corral.core.scheduling.leases import Lease, LoadedModel
from corral.core.scheduling.load_progress import LoadListener
from corral.core.scheduling.loading import Deriver, ModelLoader
from corral.core.scheduling.placement import Placement
from corral.core.scheduling.remembered_choices import RememberedChoices
from corral.core.scheduling.resident import SHUTTING_DOWN, Resident
from corral.core.scheduling.residents import Residents
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.scheduling.vocabularies import Vocabularies

__all__ = ("SERVER_BUSY", "ModelScheduler")

_log = logging.getLogger(__name__)

SERVER_BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's text, both spaces included."""

_AUTO_MAX_LOADED = 3


class ModelScheduler:
    """Lends loaded models. For one event loop; the creator closes it.

    Models are identified by their files and engine, not by name. A load waits for memory: idle models are unloaded
    first, those with the shortest keep-alive before others. If all are busy, the first one accepts no new requests and
    is unloaded when it is done. Requests for loaded models never wait for a load. Engines may keep what they have
    computed in `cache_folder`.
    """

    def __init__(
        self,
        *,
        chooser: EngineChooser,
        runners: Mapping[str, Runner],
        preferred_runner: str,
        catalog: LoadableModels,
        settings: SchedulerSettings,
        free_memory: Callable[[], Mapping[str, int]],
        deriver: Deriver | None = None,
        cache_folder: str | None = None,
        tune_later: Callable[[StoredModel], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._choices = RememberedChoices(chooser)
        self._runners = runners
        self._preferred_runner = preferred_runner
        self._settings = settings
        self._clock = clock
        self._residents = Residents(clock_s=clock)
        placement = Placement(
            residents=self._residents, free_memory=free_memory, max_loaded=settings.max_loaded or _AUTO_MAX_LOADED
        )
        self._loader = ModelLoader(
            placement=placement,
            models=catalog,
            deriver=deriver,
            timeout_s=settings.load_timeout_s,
            cache_folder=cache_folder,
            tune_later=tune_later,
        )
        self._vocabularies = Vocabularies(
            runners=runners,
            preferred_runner=preferred_runner,
            models=catalog,
            deriver=deriver,
            timeout_s=settings.load_timeout_s,
            clock_s=clock,
        )
        self._closed = False

    @asynccontextmanager
    async def lease(
        self,
        view: ModelView,
        *,
        load_options: Mapping[str, Any] = {},
        engine: str | None = None,
        tasks: Collection[Task] = (),
        keep_alive_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        caller: Caller = ANONYMOUS,
        on_progress: LoadListener | None = None,
    ) -> AsyncGenerator[Lease, None]:
        """The model, loaded if necessary. It is not unloaded while the context lasts.

        Without `engine`, one is chosen that can do one of `tasks`, if there is any. `keep_alive_s` applies to the model
        until another request changes it: None means forever, 0 unloads it after the last request. Leaving while the
        model loads cancels the load, unless another request waits for it. Raises `ServerBusy`, `NoEngine`,
        `InvalidOption`, `OutOfMemory`, and what `Runner.load` raises.
        """
        started = self._clock()
        record = view.record
        choice = self._choices.choose(view, engine or self._engine_for(record), tasks, load_options)
        resident = self._residents.find(record, choice)
        owner = caller.principal.name
        if (resident is None or resident.full) and self._residents.waiting_of(owner) >= self._settings.max_queue:
            raise ServerBusy(SERVER_BUSY, "wait for running requests to end, or raise max_queue")
        if resident is None:
            resident = self._start(record, choice, view.metadata)
            _log.debug("loading %s for %s", record.name.short, owner)
        resident.lease(record.name, keep_alive_s, owner)
        try:
            model = resident.model or await resident.loaded(on_progress)
            load_ns = round((self._clock() - started) * 1e9)
            yield Lease(
                model=model, record=record, load_ns=load_ns, engine=choice.spec.name, ignored_options=choice.ignored
            )
        finally:
            self._residents.give_back(resident, owner)

    @asynccontextmanager
    async def lease_tokenizer(
        self,
        view: ModelView,
        *,
        load_options: Mapping[str, Any] = {},
        engine: str | None = None,
        tasks: Collection[Task] = (),
        keep_alive_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        caller: Caller = ANONYMOUS,
    ) -> AsyncGenerator[Lease, None]:
        """As `lease`, for those who only tokenize: the model if it is in memory already, else its vocabulary alone.

        Only if its engine cannot open that, the model is loaded.
        """
        record, owner = view.record, caller.principal.name
        choice = self._choices.choose(view, engine or self._engine_for(record), tasks, load_options)
        resident = self._residents.tokenizing(record, choice)
        if resident is not None and resident.model is not None:
            resident.lease(record.name, keep_alive_s, owner)
            try:
                yield Lease(model=resident.model, record=record, load_ns=0, engine=choice.spec.name)
            finally:
                self._residents.give_back(resident, owner)
            return
        source = await self._vocabularies.source(record, choice)
        if source is not None:
            async with self._vocabularies.lease(source, choice, label=record.name.short, owner=owner) as model:
                yield Lease(model=model, record=record, load_ns=0, engine=choice.spec.name, vocabulary_only=True)
            return
        async with self.lease(
            view, load_options=load_options, engine=engine, tasks=tasks, keep_alive_s=keep_alive_s, caller=caller
        ) as lease:
            yield lease

    async def unload(self, record: StoredModel) -> bool:
        """Unload a model: if it is idle now, returning when its memory is free, else after its last request.

        False if it is not in memory.
        """
        found = self._residents.of(record)
        departures = [departure for one in found if (departure := self._residents.unload(one)) is not None]
        if departures:
            await asyncio.wait(departures)
        return bool(found)

    def loaded(self) -> list[LoadedModel]:
        """The models that are ready, the one that stays longest first. The time of a busy one counts from now."""
        offset_s = time.time() - self._clock()
        listed = []
        for one in self._residents:
            if one.model is None or one.dead:
                continue
            listed.append(
                LoadedModel(
                    record=one.record,
                    engine=one.spec.name,
                    runner=one.runner.name,
                    info=one.model.info,
                    expires_at=None if math.isinf(one.expires_at_s) else one.expires_at_s + offset_s,
                    active=one.leases,
                )
            )
        return sorted(listed, key=lambda one: math.inf if one.expires_at is None else one.expires_at, reverse=True)

    async def aclose(self) -> None:
        """End every request and load, and unload everything; return when the memory is free. May be called twice."""
        self._closed = True
        await self._vocabularies.aclose()
        await self._residents.aclose()

    def _engine_for(self, record: StoredModel) -> str | None:
        """The engine that is configured for all models that run here."""
        return None if record.remote else self._settings.engine

    def _start(self, record: StoredModel, choice: Candidate, metadata: ModelMetadata | None) -> Resident:
        if self._closed:
            raise ServerBusy(SHUTTING_DOWN)
        runner = choose_runner(choice.spec, self._runners, self._preferred_runner)
        if record.remote:  # its manifest has changed, and those loaded before have no timer
            for one in self._residents.upstreams_named(record.name):
                self._residents.unload(one)
        return self._residents.add(
            record,
            choice,
            runner,
            keep_alive_s=self._settings.keep_alive_s,
            load=lambda resident: self._loader.load(resident, metadata),
        )
