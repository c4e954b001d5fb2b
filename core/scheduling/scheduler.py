"""Which models are in memory: loads on demand, lends, evicts, and unloads what nobody has asked for in a while."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from corral.core.errors import CorralError, LoadFailed, ServerBusy, to_error
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.models.view import ModelView
from corral.core.ports.runners import Runner
from corral.core.ports.running import RunningModel, Task
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.scheduling.engine_choice import (
    Candidate,
    EngineChooser,
    choose_runner,
    fits,
    ignored_load_options,
    typed_load_options,
)
from corral.core.scheduling.leases import Lease, LoadedModel
from corral.core.scheduling.loading import Deriver, ModelLoader, Models
from corral.core.scheduling.placement import Placement
from corral.core.scheduling.residents import LoadListener, Resident, files_key
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.specs.engines import EngineSpec

__all__ = ("ModelScheduler",)

_log = logging.getLogger(__name__)

_AUTO_MAX_LOADED = 3
_LONGEST_TIMER_S = 24 * 3600.0
_SHUTTING_DOWN = "the server is shutting down"
_BUSY = "server busy, please try again.  maximum pending requests exceeded"  # Ollama's text, both spaces included


class ModelScheduler:
    """Lends loaded models. For one event loop; whoever made it closes it.

    Models are told apart by their files and engine, not by name. A load waits for room: idle models go first, those
    with the shortest keep-alive before others; where all are busy the first of them takes no new requests and goes
    when it is done. Requests for loaded models never wait for a load.
    """

    def __init__(
        self,
        *,
        engines: Sequence[EngineSpec],
        runners: Mapping[str, Runner],
        preferred_runner: str,
        catalog: Models,
        settings: SchedulerSettings,
        engine_settings: Mapping[str, Mapping[str, Any]],
        free_memory: Callable[[], Mapping[str, int]],
        deriver: Deriver | None = None,
        clock: Callable[[], float] = time.monotonic,
        left_out: Mapping[str, str] = {},
    ) -> None:
        converters = () if deriver is None else deriver.converters
        self._chooser = EngineChooser(engines, converters, settings.engine_order, left_out)
        self._runners = runners
        self._preferred_runner = preferred_runner
        self._catalog = catalog
        self._settings = settings
        self._engine_settings = engine_settings
        self._clock = clock
        self._residents: list[Resident] = []
        self._unloading: set[asyncio.Task[None]] = set()
        self._placement = Placement(
            free_memory=free_memory,
            max_loaded=settings.max_loaded or _AUTO_MAX_LOADED,
            residents=self._residents,
            unloading=self._unloading,
            unload=self._unload,
        )
        self._loader = ModelLoader(
            placement=self._placement, models=catalog, deriver=deriver, timeout_s=settings.load_timeout_s
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
        """The model, loaded if need be, and safe from unloading while the context lasts.

        Unless `engine` names one, an engine is chosen that can do one of `tasks`, if there is any. `keep_alive_s`
        stays with the model until a request says otherwise: None for ever, 0 to unload after the last request.
        Leaving while the model loads stops the load, if nobody else waits for it. Raises `ServerBusy`, `NoEngine`,
        `InvalidOption`, `OutOfMemory`, and what `Runner.load` raises.
        """
        started = self._clock()
        record, metadata = view.record, view.metadata
        choice = self._chooser.choose(record, metadata, engine or self._engine_for(record), tasks)
        spec = choice.spec
        options = typed_load_options(spec, self._engine_settings.get(spec.name, {}), load_options)
        resident = self._find(record, spec, options)
        must_wait = resident is None or resident.model is None or resident.active >= resident.model.info.parallel
        if must_wait and sum(one.waiting for one in self._residents) >= self._settings.max_queue:
            raise ServerBusy(_BUSY, "wait for running requests to end, or raise max_queue")
        if resident is None:
            resident = self._start(record, choice, options, metadata)
            _log.debug("loading %s for %s", record.name.short, caller.id)
        self._take(resident, record, keep_alive_s)
        try:
            model = resident.model or await self._loaded(resident, on_progress)
            load_ns = round((self._clock() - started) * 1e9)
            ignored = ignored_load_options(spec, load_options)
            yield Lease(model=model, record=record, load_ns=load_ns, engine=spec.name, ignored_options=ignored)
        finally:
            self._give_back(resident)

    async def unload(self, record: StoredModel) -> bool:
        """Unload it: now and waiting for its memory where it is idle, after its last request where it is not.

        False where it is not in memory.
        """
        found = [one for one in self._residents if one.files == files_key(record)]
        tasks = []
        for resident in found:
            resident.draining = True
            if not resident.active:
                tasks.append(self._unload(resident))
        if tasks:
            await asyncio.wait(tasks)
        return bool(found)

    def loaded(self) -> list[LoadedModel]:
        """Models that answer, the one that stays longest first. A busy one's time counts from now."""
        offset = time.time() - self._clock()
        listed = []
        for one in self._residents:
            if one.model is None or not one.model.alive:
                continue
            expires_at = one.expires(self._clock()) if one.active else one.expires_at
            listed.append(
                LoadedModel(
                    record=one.record,
                    engine=one.spec.name,
                    runner=one.runner.name,
                    info=one.model.info,
                    expires_at=None if math.isinf(expires_at) else expires_at + offset,
                    active=one.active,
                )
            )
        return sorted(listed, key=lambda one: math.inf if one.expires_at is None else one.expires_at, reverse=True)

    async def aclose(self) -> None:
        """Ends every request and load, unloads everything, returns when the memory is free. Twice is fine."""
        self._closed = True
        loads = [one.loading for one in self._residents if one.loading is not None and not one.loading.done()]
        for load in loads:
            load.cancel()
        for resident in list(self._residents):
            if resident.model is not None:
                self._unload(resident)
        if loads:
            await asyncio.wait(loads)
        while self._unloading:
            await asyncio.wait(self._unloading)

    def _engine_for(self, record: StoredModel) -> str | None:
        """The engine that is set for every model; it is meant for those that run here."""
        return None if record.remote else self._settings.engine

    # ── Leases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _find(self, record: StoredModel, spec: EngineSpec, options: Any) -> Resident | None:
        files = files_key(record)
        for one in list(self._residents):
            if one.model is not None and not one.model.alive:
                self._unload(one)  # died: what is left of it is cleared away, and it is loaded anew
            elif one.files == files and one.spec is spec and not one.leaving and fits(spec, one.options, options):
                return one
        return None

    def _start(self, record: StoredModel, choice: Candidate, options: Any, metadata: ModelMetadata | None) -> Resident:
        if self._closed:
            raise ServerBusy(_SHUTTING_DOWN)
        runner = choose_runner(choice.spec, self._runners, self._preferred_runner)
        resident = Resident(record, choice.spec, runner, options, converter=choice.match.converter)
        resident.keep_alive_s = self._settings.keep_alive_s
        resident.loading = asyncio.create_task(self._loader.load(resident, metadata), name=f"load {record.name.short}")
        resident.loading.add_done_callback(lambda task: self._load_ended(resident, task))
        if record.remote:
            self._retire(record.name)
        self._residents.append(resident)
        return resident

    def _retire(self, name: ModelName) -> None:
        """Lets go of the upstreams that a name stood for before its manifest changed: no timer would."""
        for one in [one for one in self._residents if one.record.remote and name.key in one.names]:
            one.draining = True
            if not one.active:
                self._unload(one)

    def _take(self, resident: Resident, record: StoredModel, keep_alive_s: float | msgspec.UnsetType | None) -> None:
        resident.active += 1
        resident.names.add(record.name.key)
        if record.remote:
            resident.keep_alive_s = None  # it holds no memory, so no timer runs: it stays until somebody unloads it
        elif keep_alive_s is not msgspec.UNSET:
            resident.keep_alive_s = keep_alive_s
        resident.stop_timer()

    def _give_back(self, resident: Resident) -> None:
        resident.active -= 1
        if resident.active or resident not in self._residents:
            return
        if resident.model is None:
            if resident.loading is not None:
                resident.loading.cancel()
                self._await_end(resident.loading)  # it holds memory until then
            self._forget(resident)
        elif resident.leaving or resident.keep_alive_s == 0 or not resident.model.alive:
            self._unload(resident)
        else:
            resident.expires_at = resident.expires(self._clock())
            self._set_timer(resident)
        self._placement.look_again()

    async def _loaded(self, resident: Resident, on_progress: LoadListener | None) -> RunningModel:
        """Waits for the load without owning it: a caller who leaves takes only itself away."""
        task = resident.loading
        assert task is not None
        if on_progress is not None:
            resident.listeners.append(on_progress)
        try:
            await asyncio.wait([task])
        finally:
            if on_progress is not None:
                resident.listeners.remove(on_progress)
        if task.cancelled() or (task.exception() is None and resident.model is None):
            raise ServerBusy(_SHUTTING_DOWN)
        error = task.exception()
        if isinstance(error, CorralError):
            raise to_error(error.info) from error  # one object raised in many tasks would gather their tracebacks
        if error is not None:
            raise LoadFailed(f"loading {resident.record.name.short}: {error}") from error
        assert resident.model is not None
        return resident.model

    def _load_ended(self, resident: Resident, task: asyncio.Task[None]) -> None:
        if resident.model is None:
            self._forget(resident)
            if not task.cancelled():
                task.exception()  # the waiters have raised it; asyncio need not report it
        elif resident not in self._residents or self._closed:
            self._unload(resident)  # the last waiter left in the very moment it was ready
        self._placement.look_again()

    # ── Unloading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _set_timer(self, resident: Resident) -> None:
        if not math.isinf(resident.expires_at):
            wait_s = min(max(0.0, resident.expires_at - self._clock()), _LONGEST_TIMER_S)
            resident.timer = asyncio.get_running_loop().call_later(wait_s, self._expire, resident)

    def _expire(self, resident: Resident) -> None:
        if resident.active or resident not in self._residents:
            return
        if self._clock() >= resident.expires_at:
            self._unload(resident)
        else:
            self._set_timer(resident)

    def _unload(self, resident: Resident) -> asyncio.Task[None]:
        self._forget(resident)
        task = asyncio.create_task(self._close(resident), name=f"unload {resident.record.name.short}")
        self._await_end(task)
        return task

    def _await_end(self, task: asyncio.Task[None]) -> None:
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _close(self, resident: Resident) -> None:
        assert resident.model is not None
        try:
            await resident.model.aclose()
        except Exception:
            _log.exception("unloading %s", resident.record.name.short)
        self._placement.look_again()

    def _forget(self, resident: Resident) -> None:
        if resident in self._residents:
            self._residents.remove(resident)
        resident.stop_timer()
