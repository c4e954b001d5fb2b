"""Tokenizing without weights: which model or vocabulary is asked, how many are open, and when they are closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.errors import EngineDied, InvalidModelFile, ServerBusy
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import parse_name
from corral.core.models.view import ModelView
from corral.core.ports.runners import OnLoadProgress, Runner
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.leases import Lease
from corral.core.scheduling.load_errors import LoadCrashed
from corral.core.scheduling.scheduler import ModelScheduler
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.scheduling.vocabularies import Vocabularies
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Derivation, EngineSpec, LoadRequest, LocalFile, Match
from tests.unit.idle_model import IdleModel

WHOLE, ALONE = "toy:load", "toy:vocabulary"
PRESS = ConverterSpec(name="press", summary="", convert="toy:convert", match=lambda *_: Match(score=1, reason=""))


class Toy(IdleModel):
    """A model, or its vocabulary, by what was loaded."""

    def __init__(self, runner: ToyRunner, spec: EngineSpec, request: LoadRequest) -> None:
        super().__init__()
        tasks = frozenset() if spec.load == ALONE else frozenset({"completion"})
        self.info = replace(self.info, tasks=tasks, features=frozenset({"tokenize"}))
        self.runner, self.load, self.name = runner, spec.load, request.model
        self.files = [file.path for file in request.files]

    async def aclose(self) -> None:
        await super().aclose()
        self.runner.open.remove(self)


class ToyRunner:
    """Loads at once, or when `gate` opens."""

    name = "process"

    def __init__(self) -> None:
        self.loads: list[tuple[str, str]] = []
        self.open: list[Toy] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        self.loads.append((spec.load, request.model))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        model = Toy(self, spec, request)
        self.open.append(model)
        return model


class Store:
    """The models' files, named after the models. What was converted is there if `converted` has it."""

    def __init__(self, converted: Mapping[str, StoredModel] = {}) -> None:
        self.converted = converted
        self.conversions = 0

    async def metadata(self, record: StoredModel) -> ModelMetadata | None:
        return None

    @asynccontextmanager
    async def loadable_files(self, record: StoredModel) -> AsyncIterator[tuple[LocalFile, ...]]:
        yield (LocalFile(role="weights", path=f"/{record.name.model}"),)

    async def existing(
        self, record: StoredModel, converter: str, parameters: Mapping[str, Any] = {}
    ) -> StoredModel | None:
        return self.converted.get(record.name.model)

    async def derive(
        self, record: StoredModel, converter: str, *, parameters: Mapping[str, Any], on_progress: OnLoadProgress
    ) -> StoredModel:
        self.conversions += 1
        return record

    async def reencoded(
        self, record: StoredModel, engine: str, kind: str, *, on_progress: OnLoadProgress
    ) -> StoredModel:
        return record

    async def discard_damaged(self, derived: StoredModel) -> bool:
        return False


def spec(*, derive: Derivation | None = None, vocabulary: str | None = ALONE) -> EngineSpec:
    return EngineSpec(
        name="toy",
        summary="",
        form="step",
        load=WHOLE,
        vocabulary=vocabulary,
        match=lambda *_: Match(score=1, reason="", derive=derive),
        estimate=lambda record, metadata, options: {},
    )


def view(name: str) -> ModelView:
    file = ModelFile(role="weights", media_type="", digest=digest_of(name.encode()), size_bytes=1)
    record = StoredModel(
        name=parse_name(name), digest=digest_of(b"manifest" + name.encode()), size_bytes=1, modified_at=0, files=(file,)
    )
    return ModelView(record=record, metadata=None, capabilities=())


def scheduled(
    check: Callable[[ModelScheduler, ToyRunner], Awaitable[None]],
    *,
    engines: Sequence[EngineSpec] = (spec(),),
    store: Store | None = None,
) -> None:
    """Runs a check with a scheduler, and closes it: nothing may stay open."""

    async def main() -> None:
        runner = ToyRunner()
        runners: dict[str, Runner] = {"process": runner}
        scheduler = ModelScheduler(
            chooser=EngineChooser(engines, [PRESS], installation=InstalledPackages()),
            runners=runners,
            preferred_runner="process",
            catalog=store or Store(),
            settings=SchedulerSettings(),
            free_memory=lambda: {"cpu": 1000},
            deriver=store,
        )
        try:
            async with asyncio.timeout(10):
                await check(scheduler, runner)
        finally:
            await scheduler.aclose()
        assert runner.open == []

    asyncio.run(main())


async def tokenizer(scheduler: ModelScheduler, name: str) -> Lease:
    async with scheduler.lease_tokenizer(view(name)) as lease:
        assert lease.model.alive
        return lease


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")


def test_the_vocabulary_alone_is_opened() -> None:
    """It is opened once for all who ask, and is no model in memory."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        leases = await asyncio.gather(*(tokenizer(scheduler, "a") for _ in range(5)))
        assert all(lease.vocabulary_only and lease.engine == "toy" for lease in leases)
        assert runner.loads == [(ALONE, "a:latest")]
        assert scheduler.loaded() == []

    scheduled(check)


def test_a_model_in_memory_is_asked_itself() -> None:
    """Whatever options it was loaded with; nothing else is opened."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view("a")):
            lease = await tokenizer(scheduler, "a")
        assert not lease.vocabulary_only
        assert runner.loads == [(WHOLE, "a:latest")]

    scheduled(check)


def test_a_model_that_is_still_loading_is_not_waited_for() -> None:
    """Its vocabulary is opened meanwhile, since weights may take minutes."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        runner.gate.clear()
        async with AsyncExitStack() as stack:
            loading = asyncio.create_task(stack.enter_async_context(scheduler.lease(view("a"))))
            await until(lambda: bool(runner.loads))
            asked = asyncio.create_task(tokenizer(scheduler, "a"))
            await until(lambda: len(runner.loads) == 2)
            runner.gate.set()
            assert (await asked).vocabulary_only
            await loading

    scheduled(check)


def test_an_engine_without_vocabularies() -> None:
    """The model is loaded, as for any other request."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        assert not (await tokenizer(scheduler, "a")).vocabulary_only
        assert runner.loads == [(WHOLE, "a:latest")]
        assert len(scheduler.loaded()) == 1

    scheduled(check, engines=[spec(vocabulary=None)])


@pytest.mark.parametrize("is_there", [True, False])
def test_an_engine_that_converts_first(is_there: bool) -> None:
    """The vocabulary is that of the converted model if there is one; otherwise only a load converts it."""
    store = Store({"a": view("pressed").record} if is_there else {})

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        lease = await tokenizer(scheduler, "a")
        assert lease.vocabulary_only == is_there
        assert store.conversions == (not is_there)
        assert runner.open[0].files == ["/pressed" if is_there else "/a"]
        assert runner.open[0].name == "a:latest"

    scheduled(check, engines=[spec(derive=Derivation(converter="press"))], store=store)


@pytest.mark.parametrize(
    ("raised", "expected"), [(EngineDied("killed by SIGSEGV"), LoadCrashed), (InvalidModelFile("no tokens"), None)]
)
def test_a_vocabulary_that_cannot_be_opened(raised: Exception, expected: type[Exception] | None) -> None:
    """A process that dies of the file and a file that is refused fail the request; the next one tries again."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        runner.error = raised
        with pytest.raises(expected or type(raised)):
            await tokenizer(scheduler, "a")
        runner.error = None
        assert (await tokenizer(scheduler, "a")).vocabulary_only

    scheduled(check)


def test_one_that_has_died_is_opened_again() -> None:
    """A vocabulary whose process has ended is not lent any more."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await tokenizer(scheduler, "a")
        runner.open[0].alive = False
        await tokenizer(scheduler, "a")
        assert runner.loads == [(ALONE, "a:latest")] * 2

    scheduled(check)


def test_only_a_few_are_open() -> None:
    """The one that was asked longest ago makes room; if all are in use, the next one waits for one of them."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        for name in "abcad":
            await tokenizer(scheduler, name)
        assert [one.name for one in runner.open] == ["a:latest", "c:latest", "d:latest"]
        async with AsyncExitStack() as stack:
            for name in "acd":
                await stack.enter_async_context(scheduler.lease_tokenizer(view(name)))
            waiting = asyncio.create_task(tokenizer(scheduler, "e"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(runner.open) == 3
            assert not waiting.done()
        await waiting
        assert len(runner.open) == 3

    scheduled(check)


def test_one_that_nobody_asks_is_closed() -> None:
    """After the time it is kept for, and at once when its opener is closed, which opens nothing any more."""

    async def main() -> None:
        runner = ToyRunner()
        runners: dict[str, Runner] = {"process": runner}
        vocabularies = Vocabularies(
            runners=runners,
            preferred_runner="process",
            models=Store(),
            deriver=None,
            timeout_s=10,
            kept_s=0.001,
        )
        choice = EngineChooser([spec()], installation=InstalledPackages()).choose(view("a").record, None)
        async with asyncio.timeout(10):
            async with vocabularies.lease(view("a").record, choice, label="a", owner="me"):
                assert len(runner.open) == 1
            await until(lambda: not runner.open)
            await vocabularies.aclose()
            with pytest.raises(ServerBusy):
                async with vocabularies.lease(view("a").record, choice, label="a", owner="me"):
                    pass

    asyncio.run(main())
