"""Stores in layers: what is read through them, and that only the upper one is ever changed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.layered_blobs import LayeredBlobs
from corral.adapters.stores.layered_manifests import LayeredManifests
from corral.adapters.stores.layers import StoreLayer
from corral.adapters.stores.manifests import FilesystemManifests
from corral.api.library import AsyncCorral
from corral.core.errors import Conflict, ModelNotFound, ReadOnly
from corral.core.models.digests import digest_of
from corral.core.models.names import parse_name
from corral.core.ports.manifests import StoredManifest
from corral.plugins.testing.blob_writing import joined, store_bytes
from corral.plugins.testing.gguf import gguf_bytes

M = parse_name("m")


def _layer(root: Path) -> StoreLayer:
    blobs = FilesystemBlobs(root)
    return StoreLayer(name=root.name, blobs=blobs, manifests=FilesystemManifests(root), local=blobs)


class World:
    """A user's own store, above that of the site, above a third."""

    def __init__(self, folder: Path) -> None:
        self.roots = {name: folder / name for name in ("own", "site", "third")}
        self.own, self.site, self.third = (_layer(root) for root in self.roots.values())
        self.blobs = LayeredBlobs(self.own, [self.site, self.third])
        self.manifests = LayeredManifests(self.own, [self.site, self.third])

    async def names(self) -> list[str]:
        return sorted([entry.name.short async for entry in self.manifests.list(strict=True)])

    async def read(self, name: str) -> StoredManifest | None:
        return await self.manifests.get(parse_name(name))

    def contents(self, name: str) -> Mapping[str, bytes]:
        """The files of one store, apart from locks."""
        root = self.roots[name]
        return {str(path.relative_to(root)): path.read_bytes() for path in _files(root) if path.suffix != ".lock"}


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_upper_store_hides_what_is_below(world: World) -> None:
    """A name is that of the first store that has it, in any case, and is listed once."""

    async def scenario() -> None:
        await world.third.manifests.put(M, b"third")
        await world.third.manifests.put(parse_name("only"), b"only")
        await world.site.manifests.put(M, b"site")
        found = await world.read("M")
        assert found is not None
        assert found.data == b"site"
        put = await world.manifests.put(parse_name("M"), b"own")
        assert (put.name.short, put.replaced) == ("m:latest", None)
        assert await world.names() == ["m:latest", "only:latest"]
        assert await world.manifests.delete(M)
        found = await world.read("m")
        assert found is not None
        assert found.data == b"site"

    asyncio.run(scenario())


def test_a_model_of_a_layer_is_not_deleted(world: World) -> None:
    """Deleting it raises ReadOnly with the layer's name, and nothing changes."""

    async def scenario() -> None:
        await world.third.manifests.put(M, b"third")
        before = world.contents("third")
        with pytest.raises(ReadOnly, match="third"):
            await world.manifests.delete(M)
        assert await world.manifests.delete(parse_name("nobody")) is False
        assert world.contents("third") == before

    asyncio.run(scenario())


def test_a_version_in_a_layer_can_be_replaced_above_it(world: World) -> None:
    """`if_digest` of a layer's version stores the new one in the upper store; any other digest is a Conflict."""

    async def scenario() -> None:
        await world.site.manifests.put(M, b"1")
        with pytest.raises(Conflict):
            await world.manifests.put(M, b"2", if_digest=digest_of(b"0"))
        await world.manifests.put(M, b"2", if_digest=digest_of(b"1"))
        with pytest.raises(Conflict):
            await world.manifests.put(M, b"3", if_digest=digest_of(b"1"))
        kept = await world.site.manifests.get(M)
        assert kept is not None
        assert kept.data == b"1"

    asyncio.run(scenario())


def test_blobs_of_layers_are_read_and_never_deleted(world: World) -> None:
    """They have a stat, bytes and a file; they are not listed, and deleting them is False."""

    async def scenario() -> None:
        info = await store_bytes(world.site.blobs, b"weights")
        own = await store_bytes(world.blobs, b"own")
        assert await world.blobs.stat(info.digest) == info
        assert await joined(world.blobs.read(info.digest, 2)) == b"ights"
        async with world.blobs.local(info.digest) as path:
            assert path.read_bytes() == b"weights"
        assert world.blobs.path(info.digest) == world.site.local.path(info.digest)
        assert [one.digest async for one in world.blobs.list()] == [own.digest]
        assert await world.blobs.delete(info.digest) is False
        assert await joined(world.blobs.read(info.digest)) == b"weights"

    asyncio.run(scenario())


def test_a_folder_may_have_files_of_several_layers(world: World) -> None:
    """It is made in the upper store; the layers stay as they are, and need not be writable."""

    async def scenario() -> None:
        files = {
            name: (await store_bytes(layer.blobs, name.encode())).digest
            for name, layer in (("own", world.own), ("site", world.site), ("third", world.third))
        }
        before = world.contents("site"), world.contents("third")
        folder = await world.blobs.folder(digest_of(b"key"), files)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in files}
        assert folder.is_relative_to(world.roots["own"])
        await world.blobs.drop_folder(digest_of(b"key"))
        assert (world.contents("site"), world.contents("third")) == before

    asyncio.run(scenario())


def test_an_unreadable_layer_hides_only_itself(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The other stores are listed, strictly too, and the fault is logged once."""

    async def scenario() -> None:
        await world.manifests.put(M, b"own")
        await world.third.manifests.put(parse_name("third"), b"third")
        world.roots["site"].mkdir()
        (world.roots["site"] / "manifests").symlink_to("manifests")
        assert await world.names() == ["m:latest", "third:latest"]
        assert await world.names() == ["m:latest", "third:latest"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert len([record for record in caplog.records if "site" in record.getMessage()]) == 1


def test_a_broken_blob_of_a_layer_is_reported_and_stays(tmp_path: Path) -> None:
    """`verify` says that it cannot be moved aside, and names the layer."""

    async def scenario() -> None:
        file = tmp_path / "model.gguf"
        file.write_bytes(gguf_bytes())
        site = tmp_path / "site"
        async with AsyncCorral(models=site, config="") as corral:
            record = await corral.import_model(file, name="shared")
        assert record.weights is not None
        path = FilesystemBlobs(site).path(record.weights.digest)
        path.unlink()
        path.write_bytes(b"broken")
        shutil.rmtree(site / ".corral" / "adopted", ignore_errors=True)  # as if it had been pulled
        layers = {"store_layers": [str(site)]}
        async with AsyncCorral(store=str(tmp_path / "own"), config="", settings=layers) as corral:
            report = await corral.verify("shared")
        assert [broken.digest for broken in report.broken] == [record.weights.digest]
        assert "site" in report.broken[0].fault
        assert path.read_bytes() == b"broken"

    asyncio.run(scenario())


def test_a_model_of_the_site_answers_without_a_pull(tmp_path: Path) -> None:
    """Through the library: it is listed and answers, a copy shares its files, and the site's store is not changed."""

    async def scenario() -> None:
        file = tmp_path / "model.gguf"
        file.write_bytes(gguf_bytes())
        site, own = tmp_path / "site", tmp_path / "own"
        async with AsyncCorral(models=site, config="") as corral:
            await corral.import_model(file, name="shared")
        before = {path: path.read_bytes() for path in _files(site) if path.suffix != ".lock"}
        settings = {"store_layers": [str(site)]}
        async with AsyncCorral(store=str(own), config="", engine="fake", settings=settings) as corral:
            assert [model.name.short for model in await corral.list()] == ["shared:latest"]
            assert (await corral.generate("shared", "hello")).text
            await corral.copy("shared", "mine")
            assert (await corral.generate("mine", "hello")).text
            with pytest.raises(ReadOnly, match="site"):
                await corral.delete("shared")
            assert not (await corral.gc()).removed
            assert (await corral.verify("shared")).is_whole
            await corral.delete("mine")
            with pytest.raises(ModelNotFound):
                await corral.delete("mine")
            assert (await corral.generate("shared", "hello")).text
        assert {path: path.read_bytes() for path in _files(site) if path.suffix != ".lock"} == before
        assert not list(own.glob("blobs/*"))

    asyncio.run(scenario())
