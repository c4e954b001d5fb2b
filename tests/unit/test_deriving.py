"""Derived models: found, created, kept, created automatically for an engine, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from corral.adapters.runners.jobs import ProcessJobs
from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.conversion.converting import Converting
from corral.core.conversion.deriving import ModelDeriver
from corral.core.errors import (
    Conflict,
    CorralError,
    EngineNotInstalled,
    InvalidModelFile,
    InvalidOption,
    InvalidRequest,
    JobFailed,
    LoadFailed,
    ModelNotFound,
    OutOfMemory,
    OutOfSpace,
    PluginError,
    Unsupported,
)
from corral.core.models.digests import mentioned_digests
from corral.core.models.model import ModelFile, StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.runners import OnLoadProgress
from corral.core.requests.calls import LoadCall, UnloadCall
from corral.core.requests.messages import Message
from corral.core.runtime import Runtime
from corral.core.scheduling.load_progress import LoadProgress
from corral.core.specs.converters import DERIVED_HOST, ConverterSpec, derived_name
from corral.core.specs.engines import EngineSpec, LocalFile
from corral.plugins import Registrar, hookimpl
from corral.plugins.assembly import PluginManager, Stores, assemble, read_layers
from corral.plugins.builtin import FilesystemStoreSettings
from corral.plugins.stores import filesystem
from corral.plugins.testing.conversion import CONVERTER, ENGINE
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs need POSIX systems")

SMALL = parse_name("small")
ResultT = TypeVar("ResultT")


class Plugin:
    """Registers a converter, and an engine that needs its results."""

    CORRAL_PLUGIN_API = (1, 0)

    def __init__(self, converter: ConverterSpec, engine: EngineSpec) -> None:
        self._converter, self._engine = converter, engine

    @hookimpl
    def corral_register_engines(self, register: Registrar[EngineSpec]) -> None:
        register(self._engine)

    @hookimpl
    def corral_register_converters(self, register: Registrar[ConverterSpec]) -> None:
        register(self._converter)


class CountingJobs(ProcessJobs):
    """Counts the jobs that it runs."""

    def __init__(self) -> None:
        self.count = 0

    async def run(
        self, function: str, request: msgspec.Struct | None, result: type[ResultT], on_progress: OnLoadProgress
    ) -> ResultT:
        self.count += 1
        return await super().run(function, request, result, on_progress)


class World:
    """A runtime over a temporary store with one GGUF model, and a deriver whose jobs are counted."""

    def __init__(self, root: Path, runtime: Runtime, stores: Stores, converter: ConverterSpec) -> None:
        self.root = root
        self.runtime = runtime
        self.stores = stores
        self.catalog = runtime.catalog
        self.jobs = CountingJobs()
        self.deriver = ModelDeriver(
            models=runtime.catalog,
            manifests=stores.manifests,
            blobs=stores.blobs,
            local=stores.local,
            converting=Converting(
                manifests=stores.manifests,
                blobs=stores.blobs,
                local=stores.local,
                jobs=self.jobs,
                free_memory=lambda: {"cpu": 1 << 30},
            ),
            converters=[converter],
            installation=InstalledPackages(),
        )

    async def source(self) -> StoredModel:
        return await self.catalog.get(SMALL)

    async def contents(self) -> tuple[set[str], set[str]]:
        """The names and the blobs of the store."""
        names = {stored.name.full async for stored in self.stores.manifests.list()}
        return names, {blob.digest async for blob in self.stores.blobs.list()}

    def workspaces(self) -> list[Path]:
        return [path for path in (self.root / "store" / ".corral" / "work").glob("*") if path.is_dir()]

    async def derived(self) -> list[str]:
        return sorted(name for name in (await self.contents())[0] if name.startswith(DERIVED_HOST))


Check = Callable[[World], Awaitable[None]]
Run = Callable[..., None]


@asynccontextmanager
async def opened(
    tmp_path: Path, converter: ConverterSpec, engine: EngineSpec, settings: Mapping[str, Any]
) -> AsyncIterator[World]:
    root = str(tmp_path / "store")
    stores = filesystem(FilesystemStoreSettings(root=root))
    manager = PluginManager()
    manager.load_entry_points()
    manager.register(Plugin(converter, engine), "stamps")
    assert manager.statuses[-1].state == "loaded"
    flags = {"stores.filesystem.root": root, "scheduler.engine": engine.name, **settings}
    layers = read_layers("", environment={}, flags=flags)
    assembly = await assemble(layers, default_runner="thread", manager=manager)
    try:
        file = tmp_path / "small.gguf"
        file.write_bytes(gguf_bytes())
        await assembly.runtime.catalog.import_file(file, SMALL)
        yield World(tmp_path, assembly.runtime, stores, converter)
    finally:
        await assembly.aclose()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a check in a `World`; ``settings`` are dotted paths."""

    def run(
        check: Check, *, converter: ConverterSpec = CONVERTER, engine: EngineSpec = ENGINE, **settings: Any
    ) -> None:
        async def main() -> None:
            dotted = {name.replace("__", "."): value for name, value in settings.items()}
            async with asyncio.timeout(120), opened(tmp_path, converter, engine, dotted) as world:
                await check(world)

        asyncio.run(main())

    return run


def altered(spec: ConverterSpec, **fields: Any) -> ConverterSpec:
    return msgspec.structs.replace(spec, **fields)


def content(file: LocalFile) -> bytes:
    return Path(file.path).read_bytes()


def once_working(started: asyncio.Event) -> OnLoadProgress:
    """Sets the event once the converter itself has reported progress."""

    def on_progress(share: float) -> None:
        if share > 0:
            started.set()

    return on_progress


# ── Making and finding ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_converted_once(run: Run) -> None:
    """The second time, the result is found by source, converter, version and parameters."""

    async def check(world: World) -> None:
        source = await world.source()
        assert source.weights is not None
        shares: list[float] = []
        first = await world.deriver.derive(source, "stamp", on_progress=shares.append)
        assert shares == [0.0, 0.1, 0.9]
        assert first.name.host == DERIVED_HOST
        assert first.name.namespace == source.weights.digest.removeprefix("sha256:")
        assert (first.format, first.quantization, first.family) == ("stamped", "INT4", "llama")
        async with world.catalog.loadable_files(first) as [file]:
            assert content(file).startswith(b"STAMPED GGUF")
        again = await world.deriver.derive(source, "stamp", parameters={"text": ""}, on_progress=shares.append)
        assert again == first
        assert len(shares) == 3
        assert world.jobs.count == 1
        other = await world.deriver.derive(source, "stamp", parameters={"text": "other"})
        assert other.name.tag != first.name.tag
        assert world.workspaces() == []

    run(check)


def test_another_version_of_a_converter_converts_anew() -> None:
    """A new version's results may differ, so they have another name."""
    source = ModelFile(role="weights", media_type="", digest=parse("a" * 64), size_bytes=1)
    names = {derived_name(source.digest, altered(CONVERTER, version=version), {}).full for version in (1, 2)}
    assert len(names) == 2


def parse(hexadecimal: str) -> Any:
    return f"sha256:{hexadecimal}"


def test_several_files_are_a_folder_model(run: Run) -> None:
    """They keep their paths and appear in one folder for the engine."""

    async def check(world: World) -> None:
        derived = await world.deriver.derive(await world.source(), "stamp", parameters={"result": "folder"})
        async with world.catalog.loadable_files(derived) as files:
            assert {file.name for file in files} == {"model.stamped", "genai_config.json"}
            assert len({Path(file.path).parent for file in files}) == 1
            assert all(content(file) for file in files)

    run(check)


def test_two_who_want_the_same_convert_it_once(run: Run) -> None:
    """The second request waits for the first and uses its result."""

    async def check(world: World) -> None:
        source = await world.source()
        results = await asyncio.gather(*(world.deriver.derive(source, "stamp") for _ in range(3)))
        assert len({record.digest for record in results}) == 1
        assert world.jobs.count == 1

    run(check)


def test_a_derived_model_that_lacks_a_file_is_made_anew(run: Run) -> None:
    """A result with a deleted blob is converted again."""

    async def check(world: World) -> None:
        source = await world.source()
        derived = await world.deriver.derive(source, "stamp")
        await world.stores.blobs.delete(derived.files[0].digest)
        assert await world.deriver.derive(source, "stamp") == msgspec.structs.replace(
            derived, modified_at=(await world.catalog.get(derived.name)).modified_at
        )
        assert world.jobs.count == 2
        assert await world.stores.blobs.stat(derived.files[0].digest) is not None

    run(check)


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parameters", "kind", "told"),
    [
        ({"result": "nothing"}, PluginError, "no weights"),
        ({"result": "no weights"}, PluginError, "no weights"),
        ({"result": "missing"}, PluginError, "'elsewhere' is not a file"),
        ({"result": "outside"}, PluginError, "outside"),
        ({"result": "link"}, PluginError, "'link'|no weights"),
        ({"result": "twice"}, PluginError, "occurs twice"),
        ({"trouble": "error"}, InvalidModelFile, "wrong colour"),
        ({"trouble": "exception"}, JobFailed, "small:latest.*ZeroDivisionError: no weights to divide by"),
        ({"trouble": "crash"}, JobFailed, "small:latest.*SIGKILL"),
        ({"result": "everything"}, InvalidOption, "result"),
        ({"colour": "red"}, InvalidOption, "no parameter 'colour'"),
    ],
)
def test_a_failure_leaves_nothing(run: Run, parameters: dict[str, Any], kind: type[CorralError], told: str) -> None:
    """No name, blob or scratch folder is left; the error gives the reason."""

    async def check(world: World) -> None:
        before = await world.contents()
        with pytest.raises(kind, match=told):
            await world.deriver.derive(await world.source(), "stamp", parameters=parameters)
        assert await world.contents() == before
        assert world.workspaces() == []

    run(check)


def test_a_parameter_that_does_not_fit_is_told_what_does(run: Run) -> None:
    """The remedy lists every parameter with its values."""

    async def check(world: World) -> None:
        with pytest.raises(InvalidOption, match="everything") as caught:
            await world.deriver.derive(await world.source(), "stamp", parameters={"result": "everything"})
        assert "result: 'file' or 'folder' or " in (caught.value.remedy or "")
        assert "text: str" in (caught.value.remedy or "")

    run(check)


def test_cancelling_at_the_last_moment_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the folder of the conversion is removed, its result is in the store already, and no manifest names it."""

    async def check(world: World) -> None:
        scratch, leaving = world.stores.local.scratch, asyncio.Event()

        @asynccontextmanager
        async def left_slowly() -> AsyncIterator[Path]:
            async with scratch() as folder:
                yield folder
            leaving.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(world.stores.local, "scratch", left_slowly)
        before = await world.contents()
        task = asyncio.create_task(world.deriver.derive(await world.source(), "stamp"))
        await leaving.wait()
        assert await world.contents() != before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await world.contents() == before

    run(check)


def test_cancelling_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """The process is gone, and the next request gets the model."""

    async def check(world: World) -> None:
        before = await world.contents()
        started = asyncio.Event()
        parameters = {"wait_for": str(tmp_path / "go"), "pid_file": str(tmp_path / "pid")}

        async def convert() -> StoredModel:
            return await world.deriver.derive(
                await world.source(), "stamp", parameters=parameters, on_progress=once_working(started)
            )

        task = asyncio.create_task(convert())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert await world.contents() == before
        assert world.workspaces() == []
        (tmp_path / "go").touch()
        await convert()

    run(check)


def test_a_source_that_goes_meanwhile(run: Run, tmp_path: Path) -> None:
    """A model that is deleted during its conversion leaves no derived model behind."""

    async def check(world: World) -> None:
        source = await world.source()
        started = asyncio.Event()
        parameters = {"wait_for": str(tmp_path / "go")}
        task = asyncio.create_task(
            world.deriver.derive(source, "stamp", parameters=parameters, on_progress=once_working(started))
        )
        await started.wait()
        await world.catalog.delete(SMALL)
        (tmp_path / "go").touch()
        with pytest.raises(Conflict, match="deleted while"):
            await task
        assert await world.contents() == (set(), set())

    run(check)


def test_what_cannot_be_converted_is_refused_at_once(run: Run) -> None:
    """An unknown converter, missing weights, an adapter that would be lost, an unsuitable model: refused without a
    process."""

    async def check(world: World) -> None:
        source = await world.source()
        assert source.weights is not None
        adapter = msgspec.structs.replace(source.weights, role="adapter")
        for record, converter, told in (
            (source, "polish", "no converter 'polish'"),
            (msgspec.structs.replace(source, files=()), "stamp", "no local weights"),
            (msgspec.structs.replace(source, files=(source.weights, adapter)), "stamp", "adapter"),
        ):
            with pytest.raises(Unsupported, match=told):
                await world.deriver.derive(record, converter)
        stamped = await world.deriver.derive(source, "stamp")
        with pytest.raises(Unsupported, match="stamps GGUF weights only"):
            await world.deriver.derive(stamped, "stamp")
        with pytest.raises(Unsupported, match="adapter"):  # even if its weights alone have been converted
            await world.deriver.convert(msgspec.structs.replace(source, files=(source.weights, adapter)), "stamp")
        assert world.jobs.count == 1

    run(check)


@pytest.mark.parametrize(
    ("fields", "kind", "told"),
    [
        ({"estimate": lambda *_: {"disk": 1 << 60}}, OutOfSpace, "disk"),
        ({"estimate": lambda *_: {"cpu": 1 << 40}}, OutOfMemory, "cpu"),
        ({"module": "corral_no_such_module", "install_hint": "pip install x"}, EngineNotInstalled, "cannot run here"),
        ({"requirement": "corral-no-such==1.0"}, EngineNotInstalled, "corral-no-such is not installed"),
        ({"match": lambda *_: {"here": 0}["nowhere"]}, PluginError, "match of the stamp converter failed"),
        ({"estimate": lambda *_: {"here": 0}["nowhere"]}, PluginError, "estimate of the stamp converter failed"),
    ],
)
def test_what_is_lacking_is_told_before_the_work(
    run: Run, fields: dict[str, Any], kind: type[CorralError], told: str
) -> None:
    """Disk, memory and packages are checked first; a converter that cannot say what it needs is named."""

    async def check(world: World) -> None:
        with pytest.raises(kind, match=told):
            await world.deriver.derive(await world.source(), "stamp")
        assert world.jobs.count == 0
        assert world.workspaces() == []

    run(check, converter=altered(CONVERTER, **fields))


# ── Models of their own ───────────────────────────────────────────────────────────────────────────────────────────────


def test_convert_makes_a_model_of_its_own(run: Run) -> None:
    """It has its source's template and parameters, shares its blobs, and remains when the source is deleted."""

    async def check(world: World) -> None:
        own = msgspec.structs.replace(
            (await world.source()).content(),
            system="Be brief.",
            parameters={"temperature": 0.5},
            messages=(Message(role="user", content="hello"),),
            licenses=("free",),
        )
        source = await world.catalog.publish(SMALL, own)
        converted = await world.deriver.convert(source, "stamp")
        assert converted.name.short == "small:stamp"
        assert (converted.system, converted.parameters) == ("Be brief.", {"temperature": 0.5})
        assert (converted.messages, converted.licenses) == (source.messages, ("free",))
        named = await world.deriver.convert(source, "stamp", name=parse_name("mine:v1"))
        assert named.files[0].digest == converted.files[0].digest
        assert world.jobs.count == 1
        await world.catalog.delete(SMALL)
        assert await world.derived() == []
        for record in (converted, named):
            async with world.catalog.loadable_files(await world.catalog.get(record.name)) as [file]:
                assert content(file)

    run(check)


def test_the_names_of_converted_models(run: Run) -> None:
    """The converter joins the tag; the model itself and Corral's own names are refused."""

    async def check(world: World) -> None:
        await world.catalog.copy(SMALL, parse_name("small:q4_1"))
        tagged = await world.catalog.get(parse_name("small:q4_1"))
        assert (await world.deriver.convert(tagged, "stamp")).name.short == "small:q4_1-stamp"
        for name in ("small", "corral.derived/a/b:c"):
            with pytest.raises(InvalidRequest, match=r"model itself|reserves for itself"):
                await world.deriver.convert(await world.source(), "stamp", name=parse_name(name))

    run(check)


# ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_converted_when_it_is_loaded(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Progress shows converting, then loading; the model is loaded, listed and unloaded under its original name."""

    async def check(world: World) -> None:
        told: list[LoadProgress] = []
        await world.runtime.inference.load(LoadCall(model="small"), on_progress=told.append)
        assert [(one.stage, one.share) for one in told] == [
            ("converting", 0.0),
            ("converting", 0.1),
            ("converting", 0.9),
            ("loading", 0.5),
        ]
        [loaded] = world.runtime.scheduler.loaded()
        assert (loaded.record.name, loaded.engine) == (SMALL, "stamped")
        assert len(await world.derived()) == 1
        await world.runtime.inference.load(LoadCall(model="small"), on_progress=told.append)
        assert len(told) == 4
        assert await world.runtime.inference.unload(UnloadCall(model="small"))
        assert world.runtime.scheduler.loaded() == []
        await world.runtime.inference.load(LoadCall(model="small"), on_progress=told.append)
        assert [one.stage for one in told[4:]] == ["loading"]

    with caplog.at_level(logging.INFO):
        run(check)
    assert "converting small:latest with the stamp converter" in caplog.text


def test_settings_of_a_converter_hold_for_loads(run: Run) -> None:
    """``[converters.stamp]`` is what an automatic conversion uses."""

    async def check(world: World) -> None:
        await world.runtime.inference.load(LoadCall(model="small"))
        [name] = await world.derived()
        async with world.catalog.loadable_files(await world.catalog.get(parse_name(name))) as [file]:
            assert content(file).startswith(b"STAMPED from settings")

    run(check, converters__stamp__text="from settings")


def test_damaged_files_are_converted_anew(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Damage is found even if size and time of the file do not show it: the load fails, the hash differs, and the
    model is converted again."""

    async def check(world: World) -> None:
        await world.runtime.inference.load(LoadCall(model="small"))
        await world.runtime.inference.unload(UnloadCall(model="small"))
        [name] = await world.derived()
        async with world.catalog.loadable_files(await world.catalog.get(parse_name(name))) as [file]:
            damage(file)
        await world.runtime.inference.load(LoadCall(model="small"))
        async with world.catalog.loadable_files(await world.catalog.get(parse_name(name))) as [file]:
            assert b"DAMAGE" not in content(file)

    run(check)
    assert "were damaged; converting again" in caplog.text


def damage(file: LocalFile) -> None:
    path = Path(file.path)
    before = path.stat()
    mode = before.st_mode
    path.chmod(0o644)
    with path.open("r+b") as opened:
        opened.seek(20)
        opened.write(b"DAMAGE")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(mode)


def test_a_converted_model_that_does_not_load_names_the_remedy(run: Run) -> None:
    """If nothing is damaged, the error says how to convert it again, which is not done automatically."""

    async def check(world: World) -> None:
        with pytest.raises(InvalidModelFile, match="no valid stamp") as caught:
            await world.runtime.inference.load(LoadCall(model="small"))
        [name] = await world.derived()
        assert f"corral rm {name}" in (caught.value.remedy or "")
        assert world.runtime.scheduler.loaded() == []

    run(check, converters__stamp__text="DAMAGE")


def test_leaving_a_load_stops_the_conversion(run: Run, tmp_path: Path) -> None:
    """Nothing is left behind, and the next request starts over."""

    async def check(world: World) -> None:
        before = await world.contents()
        started = asyncio.Event()
        on_progress = once_working(started)
        task = asyncio.create_task(
            world.runtime.inference.load(
                LoadCall(model="small"), on_progress=lambda progress: on_progress(progress.share)
            )
        )
        await started.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await world.runtime.scheduler.aclose()
        assert await world.contents() == before
        assert world.workspaces() == []

    run(check, converters__stamp__wait_for=str(tmp_path / "never"))


def test_a_conversion_that_stands_still_is_ended(run: Run, tmp_path: Path) -> None:
    """The load timeout counts the time without progress, and its error says which part stalled."""

    async def check(world: World) -> None:
        with pytest.raises(LoadFailed, match="converting small:latest made no progress"):
            await world.runtime.inference.load(LoadCall(model="small"))
        assert await world.derived() == []

    run(check, scheduler__load_timeout="1s", converters__stamp__wait_for=str(tmp_path / "never"))


def test_deleting_a_model_deletes_what_was_made_of_it(run: Run) -> None:
    """The names, blobs and folders of links in the store."""

    async def check(world: World) -> None:
        await world.deriver.derive(await world.source(), "stamp", parameters={"result": "folder"})
        await world.catalog.delete(SMALL)
        assert await world.contents() == (set(), set())
        with pytest.raises(ModelNotFound):
            await world.source()

    run(check)


# ── Beside an Ollama ──────────────────────────────────────────────────────────────────────────────────────────────────


def start_ollama(store: Path) -> list[str]:
    """What Ollama does to the store when it starts: blobs that no manifest names are deleted. The names that it then
    lists.
    """
    manifests = [path for path in (store / "manifests").glob("*/*/*/*") if path.is_file()]
    named = {digest for path in manifests for digest in mentioned_digests(path.read_bytes())}
    for blob in (store / "blobs").iterdir():
        if blob.is_file() and blob.name.replace("-", ":") not in named:
            blob.unlink()
    return sorted("/".join(path.relative_to(store / "manifests").parts) for path in manifests)


def test_an_ollama_neither_lists_nor_prunes_derived_models(run: Run) -> None:
    """With Ollama running beside it, they are found, intact, loadable, and deleted with their source."""

    async def check(world: World) -> None:
        store = world.root / "store"
        derived = await world.deriver.derive(await world.source(), "stamp", parameters={"result": "folder"})
        assert start_ollama(store) == ["registry.ollama.ai/library/small/latest"]
        again = await world.deriver.derive(await world.source(), "stamp", parameters={"result": "folder"})
        assert (again, world.jobs.count) == (derived, 1)
        async with world.catalog.loadable_files(again) as files:
            assert all(content(file) for file in files)
        listed = {record.name for record in await world.catalog.list(derived=True)}
        assert {name.full for name in listed} == {SMALL.full, again.name.full}
        start_ollama(store)
        await world.catalog.delete(SMALL)
        assert await world.contents() == (set(), set())
        assert not list((store / ".corral" / "kept").iterdir())

    run(check)


def test_derived_models_take_no_space_twice(run: Run) -> None:
    """The name that hides a blob from Ollama is a hard link."""

    async def check(world: World) -> None:
        await world.deriver.derive(await world.source(), "stamp")
        store = world.root / "store"
        kept = list((store / ".corral" / "kept").iterdir())
        assert kept
        assert all(path.samefile(store / "blobs" / path.name) for path in kept)

    run(check)


def test_a_file_system_without_hard_links(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links, the blob is moved to where Ollama does not look."""

    async def check(world: World) -> None:
        def refuse(*arguments: Any, **more: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        derived = await world.deriver.derive(await world.source(), "stamp")
        start_ollama(world.root / "store")
        assert await world.deriver.derive(await world.source(), "stamp") == derived
        assert world.jobs.count == 1
        await world.catalog.delete(SMALL)
        assert await world.contents() == (set(), set())

    run(check)


def test_derived_models_of_an_earlier_version(run: Run) -> None:
    """They are stored among the others, are found and listed once, and move with the next change of the store."""

    async def check(world: World) -> None:
        store = world.root / "store"
        derived = await world.deriver.derive(await world.source(), "stamp")
        os.rename(store / ".corral" / "manifests" / DERIVED_HOST, store / "manifests" / DERIVED_HOST)
        for kept in (store / ".corral" / "kept").iterdir():
            kept.unlink()
        assert await world.derived() == [derived.name.full]
        assert (await world.deriver.derive(await world.source(), "stamp")).name == derived.name
        assert world.jobs.count == 1
        await world.catalog.copy(SMALL, parse_name("copy"))
        assert not (store / "manifests" / DERIVED_HOST).exists()
        assert start_ollama(store) == [f"registry.ollama.ai/library/{name}/latest" for name in ("copy", "small")]
        assert (await world.deriver.derive(await world.source(), "stamp")).name == derived.name
        assert world.jobs.count == 1
        await world.catalog.delete(derived.name)
        assert await world.derived() == []

    run(check)


def test_what_was_derived_of_a_model_that_an_ollama_deleted(run: Run) -> None:
    """It is deleted with the next model that is deleted here, because nobody could request it again."""

    async def check(world: World) -> None:
        store = world.root / "store"
        await world.deriver.derive(await world.source(), "stamp")
        other = world.root / "other.gguf"
        other.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "Other"}))
        await world.catalog.import_file(other, parse_name("other"))
        (store / "manifests" / "registry.ollama.ai" / "library" / "small" / "latest").unlink()
        start_ollama(store)
        assert await world.derived()
        await world.catalog.delete(parse_name("other"))
        assert await world.contents() == (set(), set())

    run(check)
