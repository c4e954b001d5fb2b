"""A real server over in-memory stores and the fake engine, for the tests of this folder."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Router
from msgspec import UNSET, UnsetType

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.adapters.answer_parsers.think_tags import ThinkTagParsers
from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.constraints.schema_checks import SchemaChecker
from corral.adapters.converters.safetensors.spec import CONVERTER as GGUF_CONVERTER
from corral.adapters.engine_kit.prefixes.prefix_disk import FolderPrefixDisk
from corral.adapters.engines.fake import SPEC
from corral.adapters.engines.llama_cpp.quantizing.spec import CONVERTER as QUANTIZER
from corral.adapters.engines.upstream.directory import ServerDirectory
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.registries.oci.own_logins import OwnLogins
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.runners.event_loop import EventLoopRunner
from corral.adapters.runners.jobs import ProcessJobs
from corral.adapters.runners.process import ProcessRunner
from corral.adapters.runners.thread import ThreadRunner
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.memory_responses import MemoryResponses
from corral.adapters.system.installed_packages import InstalledPackages
from corral.adapters.templates.go.language import GoLanguage
from corral.adapters.templates.language import JinjaLanguage
from corral.api.http.app import create_app
from corral.api.http.serve import run_event_loop, serve
from corral.api.http.settings import HttpSettings
from corral.core.access.limits import RateLimits
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.garbage import GarbageCollector
from corral.core.catalog.verifying import StoreVerifier
from corral.core.conversion.checkpoints import CheckpointConversion
from corral.core.conversion.comparing import ModelComparer
from corral.core.conversion.converting import Converting
from corral.core.conversion.deriving import ModelDeriver
from corral.core.conversion.quantizing import WeightsQuantizer
from corral.core.conversion.tuning import ModelTuner
from corral.core.generation.background import BackgroundWork
from corral.core.generation.parser_choice import ParserChoice
from corral.core.generation.service import InferenceService
from corral.core.models.digests import digest_of
from corral.core.models.model import Model, ModelFile
from corral.core.models.names import parse_name
from corral.core.ports.authenticators import Authenticator
from corral.core.ports.registries import Registry
from corral.core.ports.responses import ResponseStore
from corral.core.requests.messages import Message
from corral.core.runtime import Runtime
from corral.core.scheduling.device_probe import DeviceProbe
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.scheduler import ModelScheduler
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.specs.engines import EngineSpec
from corral.core.web.access import WebAccess
from corral.plugins.testing.registry import MemoryRegistry

MODELS = ("smol:q4", "other")
ANSWER = "the quick answer is: no"


class World:
    """A runtime with the models `MODELS`, in memory or in a folder; the fake engine runs them with the load options
    `engine`."""

    def __init__(
        self,
        engine: Mapping[str, Any],
        engines: Sequence[EngineSpec] = (SPEC,),
        root: Path | None = None,
        runner: str = "thread",
        registry: Registry | None = None,
        scheduler: SchedulerSettings | None = None,
    ) -> None:
        self.registry = registry or MemoryRegistry()
        self.manifests = MemoryManifests() if root is None else FilesystemManifests(root)
        self.blobs = MemoryBlobs() if root is None else FilesystemBlobs(root)
        self.format = OllamaManifestFormat()
        jobs, installation = ProcessJobs(), InstalledPackages()
        converting = Converting(
            manifests=self.manifests, blobs=self.blobs, local=self.blobs, jobs=jobs, free_memory=dict
        )
        catalog = ModelCatalog(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            formats=[self.format, ModelPackFormat()],
            readers=[GgufReader()],
            registries=[self.registry],
            default_registry=self.registry.schemes[0],
            upstreams=ServerDirectory({}),
            quantizer=WeightsQuantizer(
                converting=converting, local=self.blobs, converters=[QUANTIZER], installation=installation
            ),
            checkpoints=CheckpointConversion(
                converting=converting, local=self.blobs, converters=[GGUF_CONVERTER], installation=installation
            ),
        )
        model_scheduler = ModelScheduler(
            chooser=EngineChooser(engines, installation=installation, settings={"fake": engine}),
            runners={"thread": ThreadRunner(), "process": ProcessRunner(), "event_loop": EventLoopRunner()},
            preferred_runner=runner,
            catalog=catalog,
            settings=scheduler or SchedulerSettings(),
            free_memory=lambda: {"cpu": 1 << 40},
        )
        deriver = ModelDeriver(
            models=catalog,
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            converting=converting,
            converters=[],
            installation=installation,
        )
        limits = RateLimits()
        self.keys = KeyFile((root or Path("none")) / "keys.json")
        comparer = ModelComparer(models=catalog, jobs=jobs, engines=engines, free_memory=dict)
        self.runtime = Runtime(
            catalog=catalog,
            scheduler=model_scheduler,
            inference=InferenceService(
                catalog=catalog,
                scheduler=model_scheduler,
                languages={"go": GoLanguage(), "jinja": JinjaLanguage()},
                parsers=ParserChoice({"think_tags": ThinkTagParsers()}, {"hermes": HermesCalls()}),
                checker=SchemaChecker(),
                limits=limits,
            ),
            deriver=deriver,
            comparer=comparer,
            tuner=ModelTuner(models=catalog, deriver=deriver, comparer=comparer, engines=engines),
            devices=DeviceProbe(engines=engines, jobs=jobs),
            garbage=GarbageCollector(manifests=self.manifests, blobs=self.blobs, local=self.blobs),
            prefixes=FolderPrefixDisk(None),
            verifier=StoreVerifier(manifests=self.manifests, blobs=self.blobs, formats=[]),
            logins=OwnLogins(OciRegistrySettings()),
            keys=self.keys,
            responses=MemoryResponses(max_count=1000, max_bytes=1 << 26, ttl_s=3600),
            limits=limits,
            background=BackgroundWork(limits),
            version="9.9.9",
        )

    async def add(self, name: str, *, data: bytes | None = None, **fields: Any) -> None:
        """Adds a model, with `data` as its weights."""
        weights = await self._blob(f"weights of {name}".encode() if data is None else data)
        model = Model(
            format="fake",
            family="fake",
            files=(
                ModelFile(
                    role="weights",
                    media_type="application/vnd.ollama.image.model",
                    digest=weights,
                    size_bytes=1,
                ),
            ),
            **fields,
        )
        manifest, layers = self.format.write(parse_name(name), model)
        for layer in layers:
            await self._blob(layer)
        await self.manifests.put(parse_name(name), manifest)

    async def _blob(self, data: bytes) -> Any:
        writer = await self.blobs.begin(digest_of(data), len(data))
        await writer.write(0, data)
        await writer.commit()
        return digest_of(data)


class LiveServer:
    """The address of a running server, and the runtime behind it."""

    def __init__(self, url: str, world: World, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.world = world
        self._loop = loop

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def call(self, function: Callable[[Runtime], Awaitable[Any]]) -> Any:
        """Runs a coroutine on the runtime in the server's event loop and returns its result."""

        async def run() -> Any:
            return await function(self.world.runtime)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def active(self) -> int:
        """The number of requests that hold a model now."""

        async def count() -> int:
            return sum(model.active for model in self.world.runtime.scheduler.loaded())

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(60)

    def loads(self) -> int:
        """The number of models that are being loaded."""

        async def count() -> int:
            return sum(task.get_name().startswith("load ") for task in asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(60)


@contextmanager
def running_server(
    engine: Mapping[str, Any] | None = None,
    routers: Sequence[Router] = (),
    engines: Sequence[EngineSpec] = (SPEC,),
    shutdown_grace_s: int = 1,
    root: Path | None = None,
    runner: str = "thread",
    registry: Registry | None = None,
    scheduler: SchedulerSettings | None = None,
    web: WebAccess | None = None,
    authenticator: Authenticator | None = None,
    responses: ResponseStore | UnsetType | None = UNSET,
    **settings: Any,
) -> Iterator[LiveServer]:
    engine = {"answer": ANSWER, "step_delay_s": 0.003} if engine is None else engine
    world = World(engine, engines, root, runner, registry, scheduler)
    if web is not None:
        world.runtime = msgspec.structs.replace(world.runtime, web=web)
    if responses is not UNSET:
        world.runtime = msgspec.structs.replace(world.runtime, responses=responses)
    ready = threading.Event()
    found: list[Any] = []

    def on_ready(url: str) -> None:
        found.append(url)
        ready.set()

    async def main() -> None:
        await world.add(
            MODELS[0], parameters={"stop": ["###"], "num_ctx": 4096}, licenses=("MIT",), capabilities=("completion",)
        )
        await world.add(MODELS[1], system="You are other.", messages=(Message(role="user", content="hi"),))
        await world.add("embedder", capabilities=("embedding",))
        http = HttpSettings(host="127.0.0.1", port=0, shutdown_grace_s=shutdown_grace_s, **settings)
        task = asyncio.ensure_future(
            serve(create_app(world.runtime, routers, http, authenticator), http, on_ready=on_ready)
        )
        found.extend((asyncio.get_running_loop(), task))
        try:
            await task
        except asyncio.CancelledError:
            pass
        finally:
            await world.runtime.aclose()

    thread = threading.Thread(target=lambda: run_event_loop(main()), name="server")
    thread.start()
    assert ready.wait(60)
    loop, task, url = found
    try:
        yield LiveServer(url, world, loop)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        if isinstance(world.blobs, MemoryBlobs):
            world.blobs.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def start_server() -> Callable[..., Any]:
    """Starts a server with other engine options or settings; to be used with ``with``."""
    return running_server


@pytest.fixture(scope="session")
def within() -> Callable[[float, Callable[[], bool]], bool]:
    """Whether a condition becomes true within a number of seconds."""

    def wait(limit_s: float, condition: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.01)
        return True

    return wait


@pytest.fixture(scope="session")
def shared_server() -> Iterator[LiveServer]:
    """One server for all tests that leave it unchanged."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def strict_server() -> Iterator[LiveServer]:
    """A server that accepts request heads of up to 20,000 bytes."""
    with running_server(max_head_bytes=20_000) as server:
        yield server


@pytest.fixture
def client(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_server.url, timeout=60) as client:
        yield client
