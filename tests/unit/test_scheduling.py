"""The model scheduler: loads, leases, keep-alive, the queue, eviction, with a runner that loads nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.errors import InvalidOption, LoadFailed, NoEngine, OutOfMemory, ServerBusy, UnknownEngine
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import parse_name
from corral.core.models.view import ModelView
from corral.core.ports.runners import OnLoadProgress, Runner
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.load_progress import LoadProgress
from corral.core.scheduling.loading import Deriver
from corral.core.scheduling.scheduler import ModelScheduler
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Derivation, EngineSpec, LoadRequest, LocalFile, Match
from tests.unit.idle_model import IdleModel


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    num_ctx: int = 4096
    size_bytes: int = 10

    def __post_init__(self) -> None:
        if self.num_ctx == self.size_bytes:
            raise InvalidOption(f"num_ctx is size_bytes, {self.num_ctx}", "raise one of them")


def spec(name: str = "toy", *, score: int = 10, module: str | None = None) -> EngineSpec:
    return EngineSpec(
        name=name,
        summary="",
        form="step",
        load="nowhere:load",
        match=lambda *_: Match(score=score, reason=f"{name} says {score}"),
        estimate=lambda record, metadata, options: {"cpu": options.size_bytes},
        load_options=Options,
        fits=lambda loaded, wanted: wanted.num_ctx <= loaded.num_ctx,
        module=module,
    )


class Model(IdleModel):
    def __init__(self, runner: ToyRunner, request: LoadRequest) -> None:
        super().__init__()
        self.runner = runner
        self.request = request

    async def aclose(self) -> None:
        await super().aclose()
        await asyncio.sleep(0)
        self.runner.memory += self.request.load_options["size_bytes"]
        self.runner.events.append(f"unload {self.request.model}")


class ToyRunner:
    """Loads at once, or when `gate` opens, and accounts for the memory of a machine with `memory` bytes."""

    name = "thread"

    def __init__(self, memory: int = 1000) -> None:
        self.memory = memory
        self.events: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.models: list[Model] = []

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        self.events.append(f"load {request.model}")
        try:
            on_progress(0.5)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.events.append(f"cancel {request.model}")
            raise
        if self.error is not None:
            raise self.error
        self.memory -= request.load_options["size_bytes"]
        model = Model(self, request)
        self.models.append(model)
        return model


class Catalog:
    async def metadata(self, record: StoredModel) -> ModelMetadata | None:
        return None

    @asynccontextmanager
    async def loadable_files(self, record: StoredModel) -> AsyncIterator[tuple[LocalFile, ...]]:
        yield ()


def view_of(model: StoredModel) -> ModelView:
    return ModelView(record=model, metadata=None, capabilities=())


def record(name: str, weights: str = "") -> StoredModel:
    digest = digest_of((weights or name).encode())
    file = ModelFile(role="weights", media_type="", digest=digest, size_bytes=1)
    return StoredModel(
        name=parse_name(name), digest=digest_of(name.encode()), size_bytes=1, modified_at=0, files=(file,)
    )


A, B, C = record("a"), record("b"), record("c")

Check = Callable[[ModelScheduler, ToyRunner], Awaitable[None]]


def scheduled(
    check: Check,
    *,
    memory: int = 1000,
    runner_type: Callable[[], ToyRunner] | None = None,
    engines: Sequence[EngineSpec] | None = None,
    engine_settings: Mapping[str, Mapping[str, Any]] = {},
    deriver_type: Callable[[ToyRunner], Deriver] | None = None,
    **settings: Any,
) -> None:
    """Runs a check with a scheduler over a `ToyRunner`, and closes it."""

    async def main() -> None:
        runner = ToyRunner(memory) if runner_type is None else runner_type()
        whole = runner.memory
        runners: dict[str, Runner] = {"thread": runner}
        deriver = None if deriver_type is None else deriver_type(runner)
        scheduler = ModelScheduler(
            chooser=EngineChooser(
                [spec()] if engines is None else engines,
                () if deriver is None else TightDeriver.converters,
                installation=InstalledPackages(),
                settings=engine_settings,
            ),
            runners=runners,
            preferred_runner="process",
            catalog=Catalog(),
            settings=SchedulerSettings(**settings),
            free_memory=lambda: {"cpu": runner.memory},
            deriver=deriver,
        )
        try:
            async with asyncio.timeout(5):
                await check(scheduler, runner)
        finally:
            await scheduler.aclose()
        assert runner.memory == whole

    asyncio.run(main())


async def touch(scheduler: ModelScheduler, model: StoredModel, **options: Any) -> None:
    async with scheduler.lease(view_of(model), **options):
        pass


def names(scheduler: ModelScheduler) -> list[str]:
    return sorted(one.record.name.model for one in scheduler.loaded())


def test_one_load_for_many() -> None:
    """Requests for one model at the same time share one load, and later ones find it loaded."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await asyncio.gather(*(touch(scheduler, A) for _ in range(5)))
        async with scheduler.lease(view_of(A)) as lease:
            assert lease.engine == "toy"
            assert lease.model is runner.models[0]
        assert runner.events == ["load a:latest"]

    scheduled(check)


def test_names_share_weights() -> None:
    """Two names of the same weights are one model, listed under the first; either name unloads it."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        twin = record("twin", weights="a")
        await touch(scheduler, twin)
        assert names(scheduler) == ["a"]
        assert await scheduler.unload(twin)
        assert names(scheduler) == []
        assert not await scheduler.unload(twin)

    scheduled(check)


def test_keep_alive() -> None:
    """A model is unloaded after its keep-alive, counted from the end of the last request."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A)):
            await asyncio.sleep(0.08)
            assert names(scheduler) == ["a"]
        assert names(scheduler) == ["a"]
        while names(scheduler):  # noqa: ASYNC110 - nothing tells that it has left
            await asyncio.sleep(0.01)

    scheduled(check, keep_alive_s=0.05)


def test_keep_alive_sticks() -> None:
    """The keep-alive of a request also applies to later requests without one."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A, keep_alive_s=None)
        await touch(scheduler, A)
        await asyncio.sleep(0.05)
        [loaded] = scheduler.loaded()
        assert loaded.expires_at is None

    scheduled(check, keep_alive_s=0.01)


def test_keep_alive_zero() -> None:
    """With 0 the model is unloaded as soon as its last request ends."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A)), scheduler.lease(view_of(A), keep_alive_s=0):
            pass
        assert names(scheduler) == []

    scheduled(check)


def test_unload_waits_for_requests() -> None:
    """Unloading a busy model returns at once; the model is unloaded when its last request ends, and accepts no new
    ones.
    """

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A)) as lease:
            assert await scheduler.unload(A)
            assert lease.model.alive
            await touch(scheduler, A)
            assert len(runner.models) == 2
        await asyncio.sleep(0.01)
        assert not lease.model.alive
        assert names(scheduler) == ["a"]

    scheduled(check)


def test_a_dead_model_is_loaded_again() -> None:
    """A model that has died is not leased again."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A)):
            runner.models[0].alive = False
        assert names(scheduler) == []
        async with scheduler.lease(view_of(A)) as lease:
            assert lease.model is runner.models[1]

    scheduled(check)


def test_load_options_that_fit() -> None:
    """A smaller context is served by what is loaded; a larger one reloads the model and replaces it."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        await touch(scheduler, A, load_options={"num_ctx": 512, "num_gpu": 3, "size_bytes": None})
        assert len(runner.models) == 1
        await touch(scheduler, A, load_options={"num_ctx": 9000})
        assert len(runner.models) == 2
        assert names(scheduler) == ["a"]

    scheduled(check)


def test_options_that_an_engine_cannot_compare() -> None:
    """An engine whose `fits` fails costs another load, and no request."""
    broken = msgspec.structs.replace(spec(), fits=lambda loaded, wanted: loaded.no_such_option)

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        await touch(scheduler, A, load_options={"num_ctx": 2048})
        assert len(runner.models) == 2

    scheduled(check, engines=[broken])


def test_load_options_are_checked() -> None:
    """An option of the wrong type is an `InvalidOption` that names the engine."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        with pytest.raises(InvalidOption, match="toy"):
            await touch(scheduler, A, load_options={"num_ctx": "many"})

    scheduled(check)


def test_load_options_that_contradict_each_other_unload_nothing() -> None:
    """What the engine's options refuse by themselves is refused before an idle model is unloaded for a new load."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        for engine in (None, "toy"):
            with pytest.raises(InvalidOption, match="toy engine: num_ctx is size_bytes, 9000") as caught:
                await touch(scheduler, A, load_options={"num_ctx": 9000, "size_bytes": 9000}, engine=engine)
            assert caught.value.remedy == "raise one of them"
        assert runner.events == ["load a:latest"]
        assert names(scheduler) == ["a"]

    scheduled(check, memory=15)


def test_load_options_that_the_engine_lacks() -> None:
    """They are ignored and reported, except `num_ctx`, which is also an option of each request."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        options = {"num_ctx": 8, "size_bytes": 11, "num_gpu": 0, "use_mmap": True}
        async with scheduler.lease(view_of(A), load_options=options) as lease:
            assert lease.ignored_options == ("num_gpu", "use_mmap")

    scheduled(check)


def test_engine_settings_are_defaults() -> None:
    """A request's options override the engine's settings."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A, load_options={"size_bytes": 5})
        assert runner.models[0].request.load_options == {"num_ctx": 77, "size_bytes": 5}

    scheduled(check, engine_settings={"toy": {"num_ctx": 77, "size_bytes": 6}})


def test_choice_of_engine() -> None:
    """The best match wins, one that is not installed only if no other matches, and a named engine beats all."""
    engines = [spec("low", score=1), spec("high", score=5), spec("gone", score=9, module="no_such_module_here")]

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A)) as lease:
            assert lease.engine == "high"
        async with scheduler.lease(view_of(A), engine="low") as lease:
            assert lease.engine == "low"
        with pytest.raises(UnknownEngine, match="nope"):
            await touch(scheduler, A, engine="nope")

    scheduled(check, engines=engines)


def test_no_engine_lists_reasons() -> None:
    """If no engine accepts a model, the error has every engine's reason."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        with pytest.raises(NoEngine, match=r"one says 0; two: two says 0"):
            await touch(scheduler, A)

    scheduled(check, engines=[spec("one", score=0), spec("two", score=0)])


def test_leaving_stops_the_load() -> None:
    """A load is cancelled when the last request that waits for it leaves, and not before."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        runner.gate.clear()
        first, second = (asyncio.create_task(touch(scheduler, A)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert runner.events == ["load a:latest"]
        second.cancel()
        await asyncio.sleep(0.01)
        assert runner.events == ["load a:latest", "cancel a:latest"]
        runner.gate.set()
        await touch(scheduler, A)

    scheduled(check)


def test_a_failed_load() -> None:
    """All waiting requests get the error; the next request tries again."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        runner.error = LoadFailed("bad luck")
        results = await asyncio.gather(touch(scheduler, A), touch(scheduler, A), return_exceptions=True)
        assert [str(result) for result in results] == ["bad luck", "bad luck"]
        runner.error = None
        await touch(scheduler, A)

    scheduled(check)


def test_load_timeout() -> None:
    """A load without progress for too long fails, and says for how long."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        runner.gate.clear()
        with pytest.raises(LoadFailed, match=r"no progress for 0\.05 s"):
            await touch(scheduler, A)

    scheduled(check, load_timeout_s=0.05)


def test_progress_reaches_those_who_wait() -> None:
    """Load progress is reported to everyone who asked for it."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        told: list[LoadProgress] = []
        await touch(scheduler, A, on_progress=told.append)
        assert told == [LoadProgress(stage="loading", share=0.5)]

    scheduled(check)


def test_a_progress_callback_that_fails() -> None:
    """It harms neither the load nor the other listeners."""

    def broken(progress: LoadProgress) -> None:
        raise RuntimeError("no screen")

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        told: list[LoadProgress] = []
        await asyncio.gather(touch(scheduler, A, on_progress=broken), touch(scheduler, A, on_progress=told.append))
        assert told == [LoadProgress(stage="loading", share=0.5)]
        assert names(scheduler) == ["a"]

    scheduled(check)


def test_loaded_models_do_not_wait() -> None:
    """A request for a loaded model is served while another model loads."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        runner.gate.clear()
        loading = asyncio.create_task(touch(scheduler, B))
        await asyncio.sleep(0.01)
        await touch(scheduler, A)
        assert not loading.done()
        runner.gate.set()
        await loading

    scheduled(check)


def test_the_queue_is_bounded() -> None:
    """Beyond `max_queue` waiting requests, the next is refused with Ollama's text; loaded models still serve."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, B)
        runner.gate.clear()
        waiting = [asyncio.create_task(touch(scheduler, A)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(ServerBusy, match=r"server busy, please try again\.  maximum pending requests exceeded"):
            await touch(scheduler, A)
        await touch(scheduler, B)
        runner.gate.set()
        await asyncio.gather(*waiting)

    scheduled(check, max_queue=2)


def test_requests_beyond_the_streams_queue_up() -> None:
    """Requests that a loaded model cannot run at once count as waiting."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(3):  # two streams, one waits
                await stack.enter_async_context(scheduler.lease(view_of(A)))
            with pytest.raises(ServerBusy):
                await touch(scheduler, A)

    scheduled(check, max_queue=1)


def test_idle_models_make_room() -> None:
    """The idle model with the shortest keep-alive is unloaded first, and no more models than necessary."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A, keep_alive_s=50, load_options={"size_bytes": 40})
        await touch(scheduler, B, keep_alive_s=10, load_options={"size_bytes": 40})
        await touch(scheduler, C, load_options={"size_bytes": 40})
        assert names(scheduler) == ["a", "c"]

    scheduled(check, memory=100)


def test_max_loaded() -> None:
    """No more models than the setting allows, however much memory is free."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        await touch(scheduler, B)
        assert names(scheduler) == ["b"]

    scheduled(check, max_loaded=1)


def test_busy_models_are_waited_for() -> None:
    """A load that needs a busy model's memory waits until that model's requests end, and goes ahead of later ones."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A), load_options={"size_bytes": 60}):
            other = asyncio.create_task(touch(scheduler, B, load_options={"size_bytes": 60}))
            await asyncio.sleep(0.01)
            later = asyncio.create_task(touch(scheduler, A, load_options={"size_bytes": 60}))
            await asyncio.sleep(0.01)
            assert not other.done()
        await asyncio.gather(other, later)
        assert runner.events == [
            "load a:latest",
            "unload a:latest",
            "load b:latest",
            "unload b:latest",
            "load a:latest",
        ]

    scheduled(check, memory=100)


def test_giving_up_the_wait_leaves_the_busy_model() -> None:
    """If the waiting load is cancelled, the busy model stays loaded."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A), load_options={"size_bytes": 60}):
            other = asyncio.create_task(touch(scheduler, B, load_options={"size_bytes": 60}))
            await asyncio.sleep(0.01)
            other.cancel()
            await asyncio.sleep(0.01)
        assert names(scheduler) == ["a"]

    scheduled(check, memory=100)


def test_what_can_never_fit() -> None:
    """A model bigger than all memory is refused with both numbers, and evicts nothing."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        with pytest.raises(OutOfMemory, match=r"b:latest needs about 5\.0 GiB of cpu memory, but only 1 MiB is free"):
            await touch(scheduler, B, load_options={"size_bytes": 5 << 30})
        assert names(scheduler) == ["a"]

    scheduled(check, memory=1 << 20)


def test_out_of_memory_while_loading() -> None:
    """If the estimate was too small, idle models are unloaded and the load is tried once more."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        runner.error = OutOfMemory("the allocation failed")
        with pytest.raises(OutOfMemory):
            await touch(scheduler, B)
        assert runner.events == ["load a:latest", "load b:latest", "unload a:latest", "load b:latest"]

    scheduled(check)


def test_out_of_memory_beside_a_busy_model() -> None:
    """A busy model is waited for as well, and takes no new requests meanwhile; then the load is tried once more."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A)):
            runner.error = OutOfMemory("the allocation failed")
            other = asyncio.create_task(touch(scheduler, B))
            while "load b:latest" not in runner.events:  # noqa: ASYNC110 - nothing tells that it has begun
                await asyncio.sleep(0)
            later = asyncio.create_task(touch(scheduler, A))
            await asyncio.sleep(0.01)
            assert runner.events == ["load a:latest", "load b:latest"]
            runner.error = None
        await asyncio.gather(other, later)
        assert runner.events[2:] == ["unload a:latest", "load b:latest", "load a:latest"]

    scheduled(check)


class TightDeriver:
    """Converts nothing, and needs more memory than there is while a model is loaded."""

    converters = (
        ConverterSpec(name="press", summary="", convert="nowhere:convert", match=lambda *_: Match(score=1, reason="")),
    )

    def __init__(self, runner: ToyRunner) -> None:
        self._runner, self._whole = runner, runner.memory

    async def derive(
        self, record: StoredModel, converter: str, *, parameters: Mapping[str, Any], on_progress: OnLoadProgress
    ) -> StoredModel:
        assert (converter, parameters) == ("press", {"hard": True})
        self._runner.events.append(f"convert {record.name.short}")
        if self._runner.memory < self._whole:
            raise OutOfMemory("no room to convert")
        return record

    async def existing(
        self, record: StoredModel, converter: str, parameters: Mapping[str, Any] = {}
    ) -> StoredModel | None:
        return None

    async def reencoded(
        self, record: StoredModel, engine: str, kind: str, *, on_progress: OnLoadProgress
    ) -> StoredModel:
        return record

    async def discard_damaged(self, derived: StoredModel) -> bool:
        return False


def test_out_of_memory_while_converting() -> None:
    """Idle models are unloaded for a conversion too, which is then tried once more."""
    pressed = EngineSpec(
        name="pressed",
        summary="",
        form="step",
        load="nowhere:load",
        match=lambda *_: Match(score=1, reason="", derive=Derivation(converter="press", parameters={"hard": True})),
        estimate=lambda record, metadata, options: {"cpu": options.size_bytes},
        load_options=Options,
    )

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A, engine="toy")
        await touch(scheduler, B, engine="pressed")
        assert runner.events == [
            "load a:latest",
            "convert b:latest",
            "unload a:latest",
            "convert b:latest",
            "load b:latest",
        ]

    scheduled(check, engines=[spec(), pressed], deriver_type=TightDeriver)


class AdaptingDeriver(TightDeriver):
    """Converts into a model that has an adapter."""

    async def derive(
        self, record: StoredModel, converter: str, *, parameters: Mapping[str, Any], on_progress: OnLoadProgress
    ) -> StoredModel:
        adapter = msgspec.structs.replace(record.files[0], role="adapter")
        return msgspec.structs.replace(record, files=(*record.files, adapter))


def test_an_adapter_that_a_conversion_adds_is_not_lost() -> None:
    """An engine that loads no adapters does not run what its converter made either; nothing else is unloaded."""
    pressed = msgspec.structs.replace(
        spec(),
        name="pressed",
        match=lambda *_: Match(score=1, reason="", derive=Derivation(converter="press", parameters={})),
    )

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A, engine="toy")
        with pytest.raises(NoEngine, match="the pressed engine cannot run b:latest: it does not support adapters"):
            await touch(scheduler, B, engine="pressed")
        assert runner.events == ["load a:latest"]

    scheduled(check, engines=[spec(), pressed], deriver_type=AdaptingDeriver)


def test_closing_while_loading() -> None:
    """Closing stops loads, and waiting requests get an error."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        runner.gate.clear()
        waiting = asyncio.create_task(touch(scheduler, A))
        await asyncio.sleep(0.01)
        await scheduler.aclose()
        with pytest.raises(ServerBusy, match="shutting down"):
            await waiting
        with pytest.raises(ServerBusy, match="shutting down"):
            await touch(scheduler, A)

    scheduled(check)


def test_what_can_never_fit_replaces_nothing() -> None:
    """A model requested with options it can never have keeps running with its current ones."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        await touch(scheduler, A)
        with pytest.raises(OutOfMemory):
            await touch(scheduler, A, load_options={"num_ctx": 8192, "size_bytes": 5 << 30})
        assert names(scheduler) == ["a"]

    scheduled(check, memory=1 << 20)


def test_room_found_elsewhere_leaves_the_busy_model() -> None:
    """A busy model that was to be unloaded stays if there is room without it after all."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A), keep_alive_s=10, load_options={"size_bytes": 60}):
            async with scheduler.lease(view_of(B), load_options={"size_bytes": 30}):
                other = asyncio.create_task(touch(scheduler, C, load_options={"size_bytes": 60}))
                await asyncio.sleep(0.01)
                runner.memory += 50
            await other
        assert names(scheduler) == ["a", "b", "c"]
        runner.memory -= 50

    scheduled(check, memory=100)


def test_an_unload_outlives_a_wait_for_room() -> None:
    """A busy model that was told to unload does so after its last request, even if the load waiting for it was
    cancelled.
    """

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A), load_options={"size_bytes": 60}):
            other = asyncio.create_task(touch(scheduler, B, load_options={"size_bytes": 60}))
            await asyncio.sleep(0.01)
            assert await scheduler.unload(A)
            other.cancel()
            await asyncio.sleep(0.01)
        assert names(scheduler) == []

    scheduled(check, memory=100)


class SlowToStop(ToyRunner):
    """Holds a load's memory until `stopped` opens, though the load was cancelled."""

    def __init__(self) -> None:
        super().__init__(100)
        self.stopped = asyncio.Event()

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> RunningModel:
        size_bytes = request.load_options["size_bytes"]
        self.memory -= size_bytes
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await self.stopped.wait()
            raise
        finally:
            self.memory += size_bytes
        return await super().load(spec, request, on_progress)


def test_the_memory_of_a_cancelled_load_is_waited_for() -> None:
    """A load waits for what a cancelled one still holds, instead of being refused."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        assert isinstance(runner, SlowToStop)
        runner.gate.clear()
        first = asyncio.create_task(touch(scheduler, A, load_options={"size_bytes": 60}))
        await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.create_task(touch(scheduler, A, load_options={"size_bytes": 60}))
        await asyncio.sleep(0.01)
        runner.gate.set()
        runner.stopped.set()
        await second

    scheduled(check, runner_type=SlowToStop)


def test_closing_waits_for_cancelled_loads() -> None:
    """When closing returns, a load that was cancelled just before no longer holds any memory."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        assert isinstance(runner, SlowToStop)
        runner.gate.clear()
        waiting = asyncio.create_task(touch(scheduler, A, load_options={"size_bytes": 60}))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.01, runner.stopped.set)
        await scheduler.aclose()
        assert runner.memory == 100

    scheduled(check, runner_type=SlowToStop)


def test_a_model_that_has_grown_holds_what_it_says() -> None:
    """Whether a model fits once others are unloaded depends on what they take by now, not on what they began with."""

    async def check(scheduler: ModelScheduler, runner: ToyRunner) -> None:
        async with scheduler.lease(view_of(A), load_options={"size_bytes": 100}):
            pass
        grown = runner.models[0]
        grown.info = msgspec.structs.replace(grown.info, memory_bytes={"cpu": 900})
        grown.request = msgspec.structs.replace(grown.request, load_options={"size_bytes": 900})
        runner.memory -= 800
        async with scheduler.lease(view_of(B), load_options={"size_bytes": 1000}):
            assert runner.events == ["load a:latest", "unload a:latest", "load b:latest"]

    scheduled(check)
