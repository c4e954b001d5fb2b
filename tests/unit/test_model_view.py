"""The cost of looking up a model while nothing has changed, and that every change is noticed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.system.local_disk import on_local_disk
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import BlobNotFound, ModelNotFound
from corral.core.models.digests import digest_of
from corral.core.models.names import parse_name
from corral.plugins.settings.model_settings import ConfiguredCatalog, by_model
from corral.plugins.settings.schema import ModelSettings
from corral.plugins.testing.gguf import gguf_bytes

_LONG_AGO_NS = 1_700_000_000_000_000_001


class Touched:
    """Counts file-system calls, hashes, and uses of a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counts: Counter[str] = Counter()
        for where, name, kind in (
            (os, "stat", "stat"),
            (os, "lstat", "stat"),
            (os, "listdir", "list"),
            (os, "scandir", "list"),
            (os, "open", "open"),
            (hashlib, "sha256", "hash"),
            (asyncio.BaseEventLoop, "run_in_executor", "hop"),
        ):
            monkeypatch.setattr(where, name, self._counted(getattr(where, name), kind))

    def _counted(self, original: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._counts[kind] += 1
            return original(*arguments, **named)

        return call

    async def during(self, work: Awaitable[object]) -> dict[str, int]:
        self._counts.clear()
        await work
        return dict(self._counts)


def _catalog(root: Path) -> ModelCatalog:
    blobs = FilesystemBlobs(root)
    return ModelCatalog(
        manifests=FilesystemManifests(root),
        blobs=blobs,
        local=blobs,
        formats=[OllamaManifestFormat()],
        readers=[GgufReader()],
    )


async def _imported(root: Path, catalog: ModelCatalog, name: str, seed: str = "seed") -> Path:
    """A model, and the file of its manifest, which looks as if it had been there for long."""
    weights = root.parent / f"{seed}.gguf"
    weights.write_bytes(gguf_bytes({"general.architecture": "llama", "general.name": seed}))
    record = await catalog.import_file(weights, parse_name(name))
    path = root.joinpath("manifests", *record.name.parts)
    _age(path)
    return path


def _age(path: Path, seconds: int = 0) -> None:
    os.utime(path, ns=(_LONG_AGO_NS, _LONG_AGO_NS + seconds * 10**9))


def test_a_warm_look_up_is_one_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was looked up before costs one stat, in a thread only if the disk may not be local, and no more."""

    async def scenario() -> None:
        catalog = _catalog(tmp_path / "models")
        await _imported(tmp_path / "models", catalog, "small:q4")
        touched = Touched(monkeypatch)
        settings = by_model({"small:q4": ModelSettings(options={"num_ctx": 8})})
        configured = ConfiguredCatalog(catalog, settings)
        cold = await touched.during(configured.view(parse_name("small:q4")))
        assert {"stat", "list", "open", "hash", "hop"} <= set(cold)
        hops = {} if on_local_disk(tmp_path) else {"hop": 1}
        for _ in range(3):
            assert await touched.during(catalog.view(parse_name("small:q4"))) == {"stat": 1} | hops
            assert await touched.during(configured.view(parse_name("small:q4"))) == {"stat": 1} | hops
        view = await configured.view(parse_name("small:q4"))
        assert (view.record.parameters, view.capabilities) == ({"num_ctx": 8}, ("completion",))
        assert view.metadata is not None
        assert view.metadata.architecture == "llama"

    asyncio.run(scenario())


def test_another_spelling_costs_little_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in another case finds the stored one, and nothing is listed for it either."""

    async def scenario() -> None:
        catalog = _catalog(tmp_path / "models")
        await _imported(tmp_path / "models", catalog, "Some/Small:q4")
        touched = Touched(monkeypatch)
        await catalog.view(parse_name("some/small:Q4"))
        warm = await touched.during(catalog.view(parse_name("some/small:Q4")))
        assert set(warm) <= {"stat", "hop"}
        assert (await catalog.view(parse_name("some/small:Q4"))).record.name.short == "Some/Small:q4"

    asyncio.run(scenario())


def _replace(path: Path, data: bytes) -> None:
    """As Corral does: another file replaces it."""
    other = path.with_name(path.name + ".new")
    other.write_bytes(data)
    _age(other)
    os.replace(other, path)


def _rewrite(path: Path, data: bytes) -> None:
    """As Ollama does: the same file is overwritten with the same number of bytes."""
    path.write_bytes(data)
    _age(path, seconds=1)


def _recreate(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)
    _age(path, seconds=2)


@pytest.mark.parametrize("change", [_replace, _rewrite, _recreate])
def test_another_process_may_change_the_model(tmp_path: Path, change: Callable[[Path, bytes], None]) -> None:
    """However a manifest is changed, the next look-up has the new model and the facts about its weights."""

    async def scenario() -> None:
        root = tmp_path / "models"
        catalog = _catalog(root)
        path = await _imported(root, catalog, "m", "one")
        other = await _imported(root, catalog, "other", "two")
        before = await catalog.view(parse_name("m"))
        assert await catalog.view(parse_name("m")) == before
        change(path, other.read_bytes())
        assert other.stat().st_size == path.stat().st_size
        after = await catalog.view(parse_name("m"))
        assert after.record.digest == digest_of(path.read_bytes()) != before.record.digest
        assert after.metadata is not None
        assert after.metadata.name == "two"

    asyncio.run(scenario())


def test_a_file_written_just_now_is_read_again(tmp_path: Path) -> None:
    """Two in-place writes within one tick of the file system's clock cannot be distinguished by the file's times."""

    async def scenario() -> None:
        store = FilesystemManifests(tmp_path)
        name = parse_name("m")
        await store.put(name, b"1")
        path = tmp_path.joinpath("manifests", *name.parts)
        times = path.stat()
        assert (await _data(store, "m")) == b"1"
        path.write_bytes(b"2")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the clock did not advance
        assert (await _data(store, "m")) == b"2"

    asyncio.run(scenario())


async def _data(store: FilesystemManifests, name: str) -> bytes | None:
    found = await store.get(parse_name(name))
    return None if found is None else found.data


def test_deleting_and_the_exact_spelling_are_noticed(tmp_path: Path) -> None:
    """A name found in another case switches to its exact spelling once that exists; a deleted name is gone."""

    async def scenario() -> None:
        def write(name: str, data: bytes) -> Path:
            path = tmp_path.joinpath("manifests", *parse_name(name).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            _age(path)
            return path

        store = FilesystemManifests(tmp_path)
        assert await _data(store, "Ns/Model:q4") is None
        stored = write("ns/model:Q4", b"1")
        for _ in range(2):
            assert await _data(store, "Ns/Model:q4") == b"1"
        exact = write("Ns/Model:q4", b"2")
        for _ in range(2):
            assert await _data(store, "Ns/Model:q4") == b"2"
            assert await _data(store, "ns/model:Q4") == b"1"
        exact.unlink()
        stored.unlink()
        assert await _data(store, "ns/model:Q4") is None

    asyncio.run(scenario())


def test_weights_that_disappear_are_noticed_when_they_are_loaded(tmp_path: Path) -> None:
    """Facts about weights outlive the file, but loading it raises BlobNotFound."""

    async def scenario() -> None:
        catalog = _catalog(tmp_path / "models")
        await _imported(tmp_path / "models", catalog, "m")
        view = await catalog.view(parse_name("m"))
        async with catalog.loadable_files(view.record) as files:
            assert len(files) == 1
        assert view.record.weights is not None
        await FilesystemBlobs(tmp_path / "models").delete(view.record.weights.digest)
        assert await catalog.view(parse_name("m")) == view
        with pytest.raises(BlobNotFound):
            async with catalog.loadable_files(view.record):
                pass
        with pytest.raises(BlobNotFound):
            await _catalog(tmp_path / "models").view(parse_name("m"))
        with pytest.raises(ModelNotFound):
            await catalog.view(parse_name("nobody"))

    asyncio.run(scenario())


def test_a_warm_list_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that have not changed are listed from their folders and a stat each; one that has is read again."""

    async def scenario() -> None:
        root = tmp_path / "models"
        catalog = _catalog(root)
        for name in ("a", "b", "c"):
            changed = await _imported(root, catalog, name, name)
        touched = Touched(monkeypatch)
        assert (await touched.during(catalog.list()))["open"] >= 3
        warm = await touched.during(catalog.list())
        assert (warm.get("open", 0), warm.get("hash", 0), warm["hop"]) == (0, 0, 1)
        _rewrite(changed, root.joinpath("manifests", *parse_name("a").parts).read_bytes())
        again = await touched.during(catalog.list())
        assert (again["open"], again["hop"]) == (1, 1)
        digests = {record.name.short: record.digest for record in await catalog.list()}
        assert digests["c:latest"] == digests["a:latest"] != digests["b:latest"]

    asyncio.run(scenario())
