"""Opens the vocabularies of models whose weights nobody needs, and keeps those that were used last for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from corral.core.errors import EngineDied, ServerBusy
from corral.core.models.model import StoredModel
from corral.core.ports.loadable_models import LoadableModels
from corral.core.ports.runners import Runner
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import Candidate, choose_runner
from corral.core.scheduling.load_errors import LoadCrashed, LoadStalled
from corral.core.scheduling.resident import SHUTTING_DOWN, Resident
from corral.core.scheduling.residents import Residents
from corral.core.specs.engines import EngineSpec, LoadRequest, vocabulary_spec

__all__ = ("KnownConversions", "Vocabularies")


class KnownConversions(Protocol):
    """What finding a vocabulary needs of the `ModelDeriver`."""

    async def existing(
        self, record: StoredModel, converter: str, parameters: Mapping[str, Any] = ...
    ) -> StoredModel | None: ...


class Vocabularies:
    """At most `most` vocabularies, each where its engine's models run, a child process as a rule. One that is not asked
    for `kept_s` is closed, and so is the one that was asked longest ago if another needs its place.

    They are no models in memory: they are not listed, and no model is unloaded for them.
    """

    def __init__(
        self,
        *,
        runners: Mapping[str, Runner],
        preferred_runner: str,
        models: LoadableModels,
        deriver: KnownConversions | None,
        timeout_s: float,
        most: int = 3,
        kept_s: float = 60.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runners = runners
        self._preferred_runner = preferred_runner
        self._models = models
        self._deriver = deriver
        self._timeout_s = timeout_s
        self._most = most
        self._kept_s = kept_s
        self._residents = Residents(clock_s=clock_s)
        self._specs: dict[str, EngineSpec] = {}
        self._room = asyncio.Lock()
        self._closed = False

    async def source(self, record: StoredModel, choice: Candidate) -> StoredModel | None:
        """Whose vocabulary stands for that of the loaded model: the model, or what it was converted to for its engine.

        None if only the loaded model can tell: the engine opens no vocabularies, or has not converted the model yet.
        """
        if choice.spec.vocabulary is None:
            return None
        derivation = choice.match.derive
        if derivation is None or self._deriver is None:
            return record if derivation is None else None
        return await self._deriver.existing(record, derivation.converter, derivation.parameters)

    @asynccontextmanager
    async def lease(
        self, source: StoredModel, choice: Candidate, *, label: str, owner: str
    ) -> AsyncGenerator[RunningModel, None]:
        """The vocabulary of a `source`, opened if need be; it stays open while the context lasts. `label` is the
        model's name in messages.

        Raises `InvalidModelFile`, `LoadCrashed` if its process dies of the file, `LoadStalled`, and whatever else
        `Runner.load` raises.
        """
        candidate = self._candidate(choice)
        resident = self._residents.find(source, candidate)
        if resident is None:
            async with self._room:
                resident = self._residents.find(source, candidate)
                if resident is None:
                    await self._make_room()
                    resident = self._begin(source, candidate, label)
        resident.lease(source.name, msgspec.UNSET, owner)
        try:
            yield resident.model or await resident.loaded(None)
        finally:
            self._residents.give_back(resident, owner)

    async def aclose(self) -> None:
        """Close all of them. May be called twice."""
        self._closed = True
        await self._residents.aclose()

    def _candidate(self, choice: Candidate) -> Candidate:
        spec = self._specs.get(choice.spec.name)
        if spec is None:
            spec = vocabulary_spec(choice.spec)
            assert spec is not None
            self._specs[choice.spec.name] = spec
        return msgspec.structs.replace(choice, spec=spec, options=None)

    async def _make_room(self) -> None:
        while len(residents := list(self._residents)) >= self._most:
            unused = [one for one in residents if one.idle]
            if unused:
                await asyncio.wait([self._residents.remove(min(unused, key=lambda one: one.expires_at_s))])
            else:
                await self._residents.change()

    def _begin(self, source: StoredModel, candidate: Candidate, label: str) -> Resident:
        if self._closed:
            raise ServerBusy(SHUTTING_DOWN)
        runner = choose_runner(candidate.spec, self._runners, self._preferred_runner)
        return self._residents.add(
            source, candidate, runner, keep_alive_s=self._kept_s, load=lambda resident: self._open(resident, label)
        )

    async def _open(self, resident: Resident, label: str) -> RunningModel:
        async with self._models.loadable_files(resident.record) as files:
            request = LoadRequest(model=label, files=files)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await resident.runner.load(resident.spec, request, lambda share: None)
            except TimeoutError as error:
                raise LoadStalled(f"the vocabulary of {label} was not open after {self._timeout_s:g} s") from error
            except EngineDied as error:
                raise LoadCrashed(error.message, error.remedy) from error
