"""Loads a model: converts it first if its engine needs that, makes room for it, then calls the runner.

It tries once more if memory was short after all, or if converted files turn out to be damaged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

import msgspec

from corral.core.containment import contained
from corral.core.errors import EngineDied, InvalidModelFile, LoadFailed, NoEngine, OutOfMemory
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.ports.loadable_models import LoadableModels
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import lost_adapter
from corral.core.scheduling.load_errors import LoadCrashed, LoadStalled
from corral.core.scheduling.load_progress import LoadProgress, LoadStage
from corral.core.scheduling.placement import Placement
from corral.core.scheduling.resident import Resident
from corral.core.scheduling.vocabularies import KnownConversions
from corral.core.specs.engines import Derivation, LoadRequest, LocalFile
from corral.core.specs.spec_calls import estimate_bytes

__all__ = ("Deriver", "ModelLoader")

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Deriver(KnownConversions, Protocol):
    """What loading needs of the `ModelDeriver`."""

    async def derive(
        self, record: StoredModel, converter: str, *, parameters: Mapping[str, Any], on_progress: OnLoadProgress
    ) -> StoredModel: ...

    async def reencoded(
        self, record: StoredModel, engine: str, kind: str, *, on_progress: OnLoadProgress
    ) -> StoredModel: ...

    async def discard_damaged(self, derived: StoredModel) -> bool: ...


class ModelLoader:
    """Loads what the scheduler asks for. `timeout_s` is the longest time without progress. `tune_later` gets the models
    whose load options ask for tuning, and which have not been tuned."""

    def __init__(
        self,
        *,
        placement: Placement,
        models: LoadableModels,
        deriver: Deriver | None,
        timeout_s: float,
        cache_folder: str | None = None,
        tune_later: Callable[[StoredModel], None] | None = None,
    ) -> None:
        self._placement = placement
        self._models = models
        self._deriver = deriver
        self._timeout_s = timeout_s
        self._cache_folder = cache_folder
        self._tune_later = tune_later

    async def load(self, resident: Resident, metadata: ModelMetadata | None) -> RunningModel:
        """The model, ready for requests.

        Raises `OutOfMemory`, `LoadStalled`, `LoadCrashed` if its process dies, what `ModelDeriver.derive` raises if it
        must be converted, and whatever else `Runner.load` raises.
        """
        if self._deriver is None:
            return await self._load(resident, resident.record, metadata)
        if resident.derivation is None:
            record = await self._reencoded(resident, self._deriver)
            if record is not resident.record:
                metadata = await self._models.metadata(record)
            return await self._load(resident, record, metadata)
        derived = await self._derive(resident, self._deriver, resident.derivation)
        try:
            return await self._load_derived(resident, derived)
        except (InvalidModelFile, LoadFailed, EngineDied) as error:
            if not await self._deriver.discard_damaged(derived):
                remedy = f"run corral rm {derived.name} to have the model converted again"
                raise type(error)(error.message, f"{error.remedy}; {remedy}" if error.remedy else remedy) from error
            _log.warning("the converted files for %s were damaged; converting again", resident.record.name.short)
            return await self._load_derived(resident, await self._derive(resident, self._deriver, resident.derivation))

    async def _reencoded(self, resident: Resident, deriver: Deriver) -> StoredModel:
        """The model with the weights that were made for this machine, if there are any."""
        record, spec = resident.record, resident.spec
        if spec.reencoding is None:
            return record
        kind = contained(spec.reencoding, resident.options)
        async with self._watched(resident, "converting", None) as on_progress:
            found = await deriver.reencoded(record, spec.name, kind, on_progress=on_progress)
        if kind == "auto" and found is record and self._tune_later is not None:
            self._tune_later(record)
        return found

    async def _derive(self, resident: Resident, deriver: Deriver, derivation: Derivation) -> StoredModel:
        async def derive() -> StoredModel:
            # The time limit starts with the first report: before that, another process may convert the same model.
            async with self._watched(resident, "converting", None) as on_progress:
                return await deriver.derive(
                    resident.record, derivation.converter, parameters=derivation.parameters, on_progress=on_progress
                )

        return await self._with_second_try(resident, derive)

    async def _load_derived(self, resident: Resident, derived: StoredModel) -> RunningModel:
        return await self._load(resident, derived, await self._models.metadata(derived))

    async def _load(self, resident: Resident, record: StoredModel, metadata: ModelMetadata | None) -> RunningModel:
        lost = lost_adapter(resident.spec, record)  # a converter may have written one
        if lost is not None:
            raise NoEngine(f"the {resident.spec.name} engine cannot run {resident.record.name.short}: it {lost}")
        resident.require(estimate_bytes(resident.spec, record, metadata, resident.options))
        async with self._models.loadable_files(record) as files:  # first, so that missing files unload no other model
            await self._placement.make_room(resident)
            return await self._with_second_try(resident, lambda: self._run(resident, record, files))

    async def _with_second_try(self, resident: Resident, work: Callable[[], Awaitable[T]]) -> T:
        """If memory is short after all, unload all other models and try once more, as Ollama does."""
        try:
            return await work()
        except OutOfMemory:
            if not await self._placement.free_others(resident):
                raise
            return await work()

    async def _run(self, resident: Resident, record: StoredModel, files: tuple[LocalFile, ...]) -> RunningModel:
        request = LoadRequest(
            model=resident.record.name.short,
            files=files,
            load_options={} if resident.options is None else msgspec.to_builtins(resident.options),
            remote=record.remote,
            cache_folder=self._cache_folder,
        )
        try:
            async with self._watched(resident, "loading", self._timeout_s) as on_progress:
                return await resident.runner.load(resident.spec, request, on_progress)
        except EngineDied as error:
            raise LoadCrashed(error.message, error.remedy) from error

    @asynccontextmanager
    async def _watched(
        self, resident: Resident, stage: LoadStage, timeout_s: float | None
    ) -> AsyncGenerator[OnLoadProgress, None]:
        """Yields the function to call with the progress of a stage, for the first time within `timeout_s`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s) as deadline:

                def on_progress(share: float) -> None:
                    with suppress(RuntimeError):  # a late report from work that has ended
                        deadline.reschedule(loop.time() + self._timeout_s)
                    resident.report(LoadProgress(stage=stage, share=share))

                yield on_progress
        except TimeoutError as error:
            raise LoadStalled(
                f"{stage} {resident.record.name.short} made no progress for {self._timeout_s:g} s",
                "raise load_timeout_s if the disk is slow",
            ) from error
