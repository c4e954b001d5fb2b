"""A registry used as a store: what lies where, what is fetched and kept, and what happens if the registry refuses."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.remote_names import RemoteNames
from corral.api.library import AsyncCorral
from corral.core.errors import BlobNotFound, InvalidName, ModelNotFound, ReadOnly, SettingsError, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.names import parse_name
from corral.core.specs.converters import DERIVED_HOST
from corral.plugins.specs import Stores
from corral.plugins.testing.blob_writing import joined, store_bytes
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.gguf import gguf_bytes
from tests.contracts.remote_stores import remote_stores

M = parse_name("m")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as fake:
        fake.keeps_connections = False
        yield fake


class Machines:
    """Machines that use one registry as their store, each with a cache of its own."""

    def __init__(self, registry: FakeRegistry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder

    def machine(self, name: str, **settings: Any) -> Stores:
        return remote_stores(f"{self._registry.host}/site", self._folder / name, fresh="0s", **settings)


@pytest.fixture
def machines(registry: FakeRegistry, tmp_path: Path) -> Machines:
    return Machines(registry, tmp_path)


async def stored(stores: Stores, name: str, *layers: bytes) -> Digest:
    """Stores a model with these layers."""
    named = [await store_bytes(stores.blobs, data) for data in layers]
    manifest = json.dumps({"layers": [{"digest": info.digest, "size": info.size_bytes} for info in named]})
    return (await stores.manifests.put(parse_name(name), manifest.encode())).digest


async def names(stores: Stores) -> list[str]:
    return sorted([entry.name.short async for entry in stores.manifests.list(strict=True)])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama3", "site/library/llama3"),
        ("user/model:v1", "site/user/model"),
        ("hf.co/owner/model:Q4_K_M", "site/hf.co/owner/model"),
        ("localhost:5000/ns/model", "site/x--localhost-3a5000/ns/model"),
        ("User/Llama3:Latest", "site/x---55ser/x---4clama3"),
        ("a__b/c---d.e", "site/a__b/c---d.e"),
        ("_a/b-", "site/x---5fa/x--b-2d"),
        ("x--a/b..c", "site/x--x-2d-2da/x--b-2e-2ec"),
    ],
)
def test_names_are_repositories_and_tags_and_come_back(name: str, path: str) -> None:
    """Every model has a repository that registries accept, of its own, from which its name can be read again."""
    mapping = RemoteNames("registry.example:5000/site")
    parsed = parse_name(name)
    reference = mapping.reference(parsed)
    assert (reference.host, reference.path, reference.tag) == ("registry.example:5000", path, parsed.tag)
    assert mapping.name(path, parsed.tag) == parsed


def test_what_is_no_model_s_repository_has_no_name() -> None:
    """Other prefixes, other depths, and escapes that nobody wrote are left alone."""
    mapping = RemoteNames("//registry.example/site/")
    paths = ("other/library/m", "site/m", "site/a/b/c/d", "site/library/x--", "site/library/x---6d", "sitelibrary/m")
    assert [mapping.name(path, "latest") for path in paths] == [None] * len(paths)
    assert str(mapping) == "oci://registry.example/site"
    with pytest.raises(InvalidName, match="too long"):
        mapping.reference(parse_name("A" * 80 + "/" + "B" * 80))


@pytest.mark.parametrize("location", ["", "host", "me:secret@host.example/x", "host.example/Upper", "host.example/a:b"])
def test_what_is_no_location_is_refused(location: str) -> None:
    """The error names the setting."""
    with pytest.raises(SettingsError, match=r"stores\.oci\.location"):
        RemoteNames(location)


def test_another_machine_reads_what_one_has_stored(machines: Machines, registry: FakeRegistry) -> None:
    """A model is in its repository when its manifest is put; a range is read without fetching the rest, a file is."""

    async def scenario() -> None:
        weights = os.urandom(300_000)
        one, other = machines.machine("one"), machines.machine("other")
        digest = await stored(one, "user/model:q4", b"config", weights)
        assert set(registry.repositories["site/user/model"].blobs) == {digest_of(b"config"), digest_of(weights)}
        assert registry.repositories["site/user/model"].tags == {"q4": digest}
        found = await other.manifests.get(parse_name("USER/model:q4"))
        assert found is not None
        assert (found.digest, found.name.short) == (digest, "user/model:q4")
        info = await other.blobs.stat(digest_of(weights))
        assert info is not None
        assert info.size_bytes == len(weights)
        assert await joined(other.blobs.read(digest_of(weights), 5, 25)) == weights[5:25]
        assert await joined(other.blobs.read(digest_of(weights), len(weights))) == b""
        assert [info async for info in other.blobs.list()] == []
        async with other.local.local(digest_of(weights)) as path:
            assert path.read_bytes() == weights
        before = len(registry.seen)
        assert await joined(other.blobs.read(digest_of(weights))) == weights
        assert len(registry.seen) == before

    asyncio.run(scenario())


def test_a_blob_that_the_registry_has_is_not_sent_again(machines: Machines, registry: FakeRegistry) -> None:
    """A second name in the repository needs no blobs, and one in another repository gets them mounted."""

    async def scenario() -> None:
        one, other = machines.machine("one"), machines.machine("other")
        await stored(one, "m:1", b"weights")
        found = await other.manifests.get(parse_name("m:1"))
        assert found is not None
        registry.seen.clear()
        for name in ("m:2", "user/n"):
            await other.manifests.put(parse_name(name), found.data)
        assert registry.requests("PUT", "/blobs/") == registry.requests("PATCH") == []
        assert await names(one) == ["m:1", "m:2", "user/n:latest"]

    asyncio.run(scenario())


def test_one_of_two_tags_is_deleted_alone(machines: Machines, registry: FakeRegistry) -> None:
    """If both lead to one manifest, in a registry that deletes only manifests, the other tag stays as it is."""

    async def scenario() -> None:
        one, other = machines.machine("one"), machines.machine("other")
        digest = await stored(one, "m:1", b"weights")
        await stored(other, "m:2", b"weights")
        assert await one.manifests.delete(parse_name("m:1"))
        assert registry.repositories["site/library/m"].tags == {"2": digest}
        assert await names(other) == ["m:2"]
        assert await other.manifests.delete(parse_name("m:2"))
        assert not registry.repositories["site/library/m"].manifests
        assert await names(one) == []
        assert await one.manifests.delete(parse_name("m:2")) is False

    asyncio.run(scenario())


def test_a_refused_deletion_is_reported_and_changes_nothing(machines: Machines, registry: FakeRegistry) -> None:
    """ReadOnly with the registry's name, for a tag alone and for one of two; the models stay."""

    async def scenario() -> None:
        registry.deletes = False
        one = machines.machine("one")
        await stored(one, "m:1", b"weights")
        with pytest.raises(ReadOnly, match=registry.host):
            await one.manifests.delete(parse_name("m:1"))
        digest = await stored(one, "m:2", b"weights")
        with pytest.raises(ReadOnly, match="does not delete manifests"):
            await one.manifests.delete(parse_name("m:1"))
        assert registry.repositories["site/library/m"].tags == {"1": digest, "2": digest}
        assert await names(one) == ["m:1", "m:2"]

    asyncio.run(scenario())


def test_without_a_list_the_settings_name_the_repositories(machines: Machines, registry: FakeRegistry) -> None:
    """What this machine stored is known as well; another one says what to set, and finds exact names."""

    async def scenario() -> None:
        registry.lists = False
        one = machines.machine("one")
        await stored(one, "m:1", b"weights")
        assert await names(machines.machine("one")) == ["m:1"]
        other = machines.machine("other")
        with pytest.raises(StorageError) as caught:
            await names(other)
        assert caught.value.remedy is not None
        assert "stores.oci.repositories" in caught.value.remedy
        assert await other.manifests.get(parse_name("absent")) is None
        assert await other.manifests.get(parse_name("m:1")) is not None
        assert await names(machines.machine("third", repositories=["library/m", "library/absent"])) == ["m:1"]

    asyncio.run(scenario())


def test_a_registry_that_is_gone_is_an_error_of_the_store(machines: Machines, registry: FakeRegistry) -> None:
    """It is not an empty store: every call raises StorageError."""

    async def scenario() -> None:
        one = machines.machine("one")
        await stored(one, "m", b"weights")
        registry.close()
        for work in (one.manifests.get(M), one.manifests.put(M, b"1"), one.manifests.delete(M), names(one)):
            with pytest.raises(StorageError, match=registry.host):
                await work

    asyncio.run(scenario())


def test_a_stream_that_breaks_off_goes_on_where_it_was(machines: Machines, registry: FakeRegistry) -> None:
    """Reading asks for the rest; a registry that knows no ranges sends the whole blob into the cache."""

    async def scenario() -> None:
        weights = os.urandom(400_000)
        await stored(machines.machine("one"), "m", weights)
        other = machines.machine("other")
        assert await other.manifests.get(M) is not None

        def cut(handler: Any) -> None:
            handler.cut_after = 150_000
            handler.answer_as_usual()

        registry.fault("GET", "/blobs/", cut)
        assert await joined(other.blobs.read(digest_of(weights))) == weights
        registry.knows_ranges = False
        assert await joined(other.blobs.read(digest_of(weights), 399_000)) == weights[399_000:]
        assert [info.digest async for info in other.blobs.list()] == [digest_of(weights)]

    asyncio.run(scenario())


def test_a_blob_of_unknown_size_is_not_an_empty_one(machines: Machines, registry: FakeRegistry) -> None:
    """A registry that does not say how large a blob is, is an error: reading nothing of it would be wrong."""

    def unsized(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()

    async def scenario() -> None:
        await stored(machines.machine("one"), "m", b"weights")
        other = machines.machine("other")
        assert await other.manifests.get(M) is not None
        registry.fault("HEAD", "/blobs/", unsized)
        with pytest.raises(StorageError, match="does not say how large"):
            await joined(other.blobs.read(digest_of(b"weights")))

    asyncio.run(scenario())


def test_the_cache_keeps_to_its_limit(machines: Machines) -> None:
    """What was used least recently goes first, but not what is in use, nor what the registry does not have yet."""

    async def scenario() -> None:
        blobs = [bytes([number]) * 1000 for number in range(4)]
        await stored(machines.machine("one"), "m", *blobs)
        other = machines.machine("other", cache_bytes=2500)
        unsent = await store_bytes(other.blobs, b"u" * 400)
        assert await other.manifests.get(M) is not None
        digests = [digest_of(data) for data in blobs]

        async def use(number: int) -> None:
            async with other.local.local(digests[number]) as path:
                assert path.read_bytes() == blobs[number]

        async def cached() -> set[Digest]:
            return {info.digest async for info in other.blobs.list()}

        await use(0)
        await use(1)
        assert await cached() == {digests[0], digests[1], unsent.digest}
        async with other.local.local(digests[0]):
            await use(2)
            assert await cached() == {digests[0], digests[2], unsent.digest}
        await use(0)
        await use(3)
        assert await cached() == {digests[0], digests[3], unsent.digest}

    asyncio.run(scenario())


def test_a_long_upload_holds_up_no_other(machines: Machines, registry: FakeRegistry) -> None:
    """While the blobs of one model are being sent, another model is stored and listed, and a third deleted."""

    async def scenario() -> None:
        begun, go_on = threading.Event(), threading.Event()

        def slowly(handler: Any) -> None:
            begun.set()
            go_on.wait(60)
            handler.answer_as_usual()

        one = machines.machine("one")
        await stored(one, "gone", b"old weights")
        registry.fault("POST", "/blobs/uploads", slowly)
        upload = asyncio.create_task(stored(one, "slow", b"weights"))
        assert await asyncio.to_thread(begun.wait, 60)
        await one.manifests.put(M, b"{}")
        assert await one.manifests.delete(parse_name("gone"))
        assert await names(one) == ["m:latest"]
        assert not upload.done()
        go_on.set()
        await upload
        assert await names(one) == ["m:latest", "slow:latest"]

    asyncio.run(scenario())


def test_models_for_this_machine_s_engines_stay_here(machines: Machines, registry: FakeRegistry) -> None:
    """A derived model is listed and kept here, and nothing of it is sent."""

    async def scenario() -> None:
        one = machines.machine("one")
        derived = f"{DERIVED_HOST}/{'a' * 64}/onnx:1"
        await stored(one, derived, b"converted")
        assert await names(one) == [f"{derived}"]
        assert await names(machines.machine("other")) == []
        assert registry.requests("PUT") == []
        assert await one.manifests.delete(parse_name(derived))

    asyncio.run(scenario())


def test_broken_bytes_in_the_cache_are_fetched_again(machines: Machines, registry: FakeRegistry) -> None:
    """A broken copy is moved aside, so that the next use fetches the blob; what the registry has is not moved."""

    async def scenario() -> None:
        await stored(machines.machine("one"), "m", b"weights")
        other = machines.machine("other")
        assert other.upkeep is not None
        assert await other.manifests.get(M) is not None
        info = await other.blobs.stat(digest_of(b"weights"))
        assert info is not None
        with pytest.raises(ReadOnly, match=registry.host):
            await other.upkeep.quarantine(info)
        async with other.local.local(info.digest):
            pass
        copy = await other.blobs.stat(info.digest)
        assert copy is not None
        assert await other.upkeep.quarantine(copy)
        async with other.local.local(info.digest) as path:
            assert path.read_bytes() == b"weights"

    asyncio.run(scenario())


def test_what_no_model_names_is_not_there(machines: Machines) -> None:
    """A blob of the registry whose model is deleted is absent, on the machine that deleted it and on others."""

    async def scenario() -> None:
        one, other = machines.machine("one"), machines.machine("other")
        await stored(one, "m", b"weights")
        assert await other.manifests.get(M) is not None
        assert await other.manifests.delete(M)
        assert await other.blobs.stat(digest_of(b"weights")) is None
        with pytest.raises(BlobNotFound):
            async with other.local.local(digest_of(b"weights")):
                pass

    asyncio.run(scenario())


def test_a_model_answers_from_a_registry_without_a_pull(docker_registry: str, tmp_path: Path) -> None:
    """Through the library, on Debian's registry: imported here, it answers there, and is deleted there."""
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_bytes())
    store = f"oci://{docker_registry}/answers"

    def library(machine: str) -> AsyncCorral:
        caches = {"stores.oci.cache": str(tmp_path / machine), "stores.oci.fresh": "0s"}
        return AsyncCorral(store=store, engine="fake", config="", settings=caches)

    async def scenario() -> None:
        async with library("one") as one, library("other") as other:
            record = await one.import_model(file, name="user/small")
            await one.copy("user/small", "user/small:copy")
            assert [model.name.short for model in await other.list()] == ["user/small:copy", "user/small:latest"]
            assert (await other.show("user/small")).record.digest == record.digest
            assert (await other.generate("user/small", "hello")).text
            await other.delete("user/small")
            assert [model.name.short for model in await one.list()] == ["user/small:copy"]
            assert (await one.generate("user/small:copy", "hello")).text
            await one.delete("user/small:copy")
            assert await other.list() == []
            with pytest.raises(ModelNotFound):
                await other.generate("user/small:copy", "hello")

    asyncio.run(scenario())
