"""What a store in an OCI image layout does beyond its contracts: what other tools see, and what of theirs it leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.oci_layout import OciLayoutManifests
from corral.adapters.stores.oci_layout_blobs import LayoutBlobFiles
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.api.library import AsyncCorral
from corral.core.errors import Conflict, SettingsError, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.names import ModelName, parse_name
from corral.plugins.builtin import OciLayoutStoreSettings
from corral.plugins.stores import oci_layout
from corral.plugins.testing.blob_writing import store_bytes
from corral.plugins.testing.gguf import gguf_bytes

M = parse_name("m")
REF = "org.opencontainers.image.ref.name"
OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


class Layout:
    """A layout, and what another tool would do with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = OciLayoutManifests(LayoutContents(root))
        self.blobs = FilesystemBlobs(root, LayoutBlobFiles(LayoutContents(root)))

    def index(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "index.json").read_bytes())
        return found

    def entries(self) -> dict[str, dict[str, Any]]:
        return {entry["annotations"][REF]: entry for entry in self.index()["manifests"]}

    def files(self) -> set[Digest]:
        return {Digest(f"sha256:{path.name}") for path in (self.root / "blobs" / "sha256").iterdir()}

    async def listed(self) -> set[Digest]:
        return {info.digest async for info in self.blobs.list()}

    async def names(self) -> list[str]:
        return sorted([entry.name.short async for entry in self.manifests.list(strict=True)])

    def put_blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        folder = self.root / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(data).hexdigest()
        (folder / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def put_image(self, ref: str | None, layer_type: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Adds the entry of an image as another tool would, and returns it and its layer."""
        config = self.put_blob(f'{{"of": "{ref}"}}'.encode(), "application/vnd.oci.image.config.v1+json")
        layer = self.put_blob(f"the layer of {ref}".encode(), layer_type)
        manifest = {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer]}
        entry = self.put_blob(json.dumps(manifest).encode(), OCI) | more
        if ref is not None:
            entry["annotations"] = {REF: ref}
        self.add(entry)
        return entry, layer

    def add(self, entry: Mapping[str, Any]) -> None:
        if not (self.root / "index.json").exists():
            (self.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
            (self.root / "index.json").write_text(
                '{"schemaVersion": 2, "manifests": [], "annotations": {"of": "tool"}}'
            )
        index = self.index()
        index["manifests"].append(entry)
        (self.root / "index.json").write_text(json.dumps(index))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_a_model_is_an_entry_that_other_tools_can_address(layout: Layout) -> None:
    """Files, fields and media types are those of the image specification, and files can be read by others."""

    async def scenario() -> None:
        config, weights = await store_bytes(layout.blobs, b"{}"), await store_bytes(layout.blobs, b"weights")
        manifest = json.dumps({"mediaType": DOCKER, "config": {"digest": config.digest}}).encode()
        await layout.manifests.put(parse_name("hf.co/owner/model:Q4_K_M"), manifest)
        assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        assert (layout.index()["schemaVersion"], layout.index()["mediaType"]) == (
            2,
            "application/vnd.oci.image.index.v1+json",
        )
        entry = layout.entries()["hf.co/owner/model:Q4_K_M"]
        assert (entry["mediaType"], entry["digest"], entry["size"]) == (DOCKER, digest_of(manifest), len(manifest))
        assert layout.files() == {config.digest, weights.digest, digest_of(manifest)}
        if sys.platform != "win32":
            blobs = layout.root / "blobs" / "sha256"
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (*blobs.iterdir(), layout.root / "index.json")}
            assert modes == {0o644 & ~_umask()}
            assert stat.S_IMODE(blobs.stat().st_mode) == 0o755 & ~_umask()

    asyncio.run(scenario())


def test_a_manifest_is_a_blob_as_long_as_an_entry_names_it(layout: Layout) -> None:
    """It is not among the blobs that may be deleted, stays for a second name, and goes with the last one."""

    async def scenario() -> None:
        info = await store_bytes(layout.blobs, b"weights")
        data = b'{"layers": []}'
        await layout.manifests.put(M, data)
        await layout.manifests.put(parse_name("copy"), data)
        assert await layout.listed() == {info.digest}
        assert await layout.blobs.delete(digest_of(data)) is False
        assert await layout.manifests.delete(M)
        assert (await layout.manifests.get(parse_name("copy"))) is not None
        await layout.manifests.put(parse_name("copy"), b"another")
        assert layout.files() == {info.digest, digest_of(b"another")}
        assert await layout.manifests.delete(parse_name("copy"))
        assert layout.files() == {info.digest}

    asyncio.run(scenario())


def test_a_manifest_that_no_entry_names_is_an_unused_blob(layout: Layout) -> None:
    """What a process left that died between the manifest and the index can be deleted like any blob."""

    async def scenario() -> None:
        await layout.manifests.put(M, b"1")
        left = layout.put_blob(b'{"layers": []}', DOCKER)["digest"]
        assert await layout.listed() == {left}
        assert await layout.blobs.delete(left)
        assert await layout.names() == ["m:latest"]

    asyncio.run(scenario())


def test_what_other_tools_keep_there_stays(layout: Layout) -> None:
    """Images, indexes of them, nameless and malformed entries are neither listed nor changed, and keep their blobs."""

    async def scenario() -> None:
        rootfs = "application/vnd.oci.image.layer.v1.tar+gzip"
        _, layer = layout.put_image("alpine", rootfs)
        nameless, hidden = layout.put_image(None, rootfs)
        platform, deep = layout.put_image("inside", rootfs)
        child = {key: platform[key] for key in ("mediaType", "digest", "size")}
        many = layout.put_blob(
            json.dumps({"manifests": [child], "schemaVersion": 2}).encode(), "application/vnd.oci.image.index.v1+json"
        )
        broken = {"annotations": 3, "digest": digest_of(b"broken")}
        layout.put_blob(b"broken", "")
        before = layout.index()
        before["manifests"] = [
            *(entry for entry in before["manifests"] if entry["digest"] != platform["digest"]),
            {**many, "annotations": {REF: "everywhere"}, "platform": {"os": "linux"}, "size": 12345678901234567890},
            broken,
        ]
        (layout.root / "index.json").write_text(json.dumps(before))
        theirs = layout.files()
        own = await store_bytes(layout.blobs, b"weights")
        assert await layout.names() == []
        assert await layout.listed() == {own.digest}
        await layout.manifests.put(M, b'{"layers": []}')
        with pytest.raises(Conflict, match="Alpine"):
            await layout.manifests.put(parse_name("Alpine"), b"mine")
        for digest in (layer["digest"], hidden["digest"], deep["digest"], nameless["digest"], broken["digest"]):
            assert await layout.blobs.delete(Digest(str(digest))) is False
        assert await layout.manifests.delete(M)
        assert await layout.manifests.delete(parse_name("alpine")) is False
        after = layout.index()
        assert after == before
        assert layout.files() == {*theirs, own.digest}

    asyncio.run(scenario())


def test_what_cannot_be_read_keeps_all_blobs(layout: Layout) -> None:
    """If the manifest of an image was damaged, nobody knows its blobs, so none is deleted."""

    async def scenario() -> None:
        entry, _ = layout.put_image("alpine", "application/vnd.oci.image.layer.v1.tar")
        (layout.root / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).write_bytes(b"damaged")
        own = await store_bytes(layout.blobs, b"weights")
        with pytest.raises(StorageError, match="has changed"):
            await layout.blobs.delete(own.digest)
        assert await layout.blobs.stat(own.digest) is not None

    asyncio.run(scenario())


def test_a_model_that_another_tool_stored_is_a_model(layout: Layout) -> None:
    """An entry whose media types are a model's is one, under the name that its reference spells."""

    async def scenario() -> None:
        layout.put_image("user/smollm2:q4", "application/vnd.cncf.model.weight.v1.raw")
        layout.put_image("llama", "application/vnd.ollama.image.model")
        assert await layout.names() == ["llama:latest", "user/smollm2:q4"]
        found = await layout.manifests.get(parse_name("USER/SmolLM2:q4"))
        assert found is not None
        assert found.name.short == "user/smollm2:q4"
        assert found.modified_at > 0
        assert await layout.manifests.delete(parse_name("llama"))
        assert await layout.names() == ["user/smollm2:q4"]

    asyncio.run(scenario())


def test_a_change_by_another_tool_is_seen_at_once(layout: Layout) -> None:
    """An index that was remembered is read again when it has changed, and a manifest that is gone is missed."""

    async def scenario() -> None:
        await layout.manifests.put(M, b"1")
        past = 1_700_000_000
        os.utime(layout.root / "index.json", (past, past))
        for _ in range(3):
            assert (await layout.manifests.get(M)) is not None
        layout.put_image("other", "application/vnd.ollama.image.model")
        assert await layout.names() == ["m:latest", "other:latest"]
        (layout.root / "blobs" / "sha256" / digest_of(b"1").removeprefix("sha256:")).unlink()
        with pytest.raises(StorageError, match="missing"):
            await layout.manifests.get(M)
        with pytest.raises(StorageError, match="missing"):
            await layout.names()
        assert [entry.name.short async for entry in layout.manifests.list()] == ["other:latest"]
        assert await layout.manifests.delete(M)

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["", "{", '{"manifests": 3}', "[]", "\0" * 20])
def test_a_broken_index_is_an_error_and_stays(layout: Layout, text: str) -> None:
    """An index that cannot be read is never taken for an empty one, nor replaced."""

    async def scenario() -> None:
        await layout.manifests.put(M, b"1")
        (layout.root / "index.json").write_text(text)
        for work in (layout.manifests.get(M), layout.manifests.put(M, b"2"), layout.manifests.delete(M)):
            with pytest.raises(StorageError, match=r"index\.json"):
                await work
        assert (layout.root / "index.json").read_text() == text

    asyncio.run(scenario())


def test_a_lost_index_is_not_an_empty_one(layout: Layout) -> None:
    """Blobs without an index are no garbage: nothing is listed, stored or deleted until it is back."""

    async def scenario() -> None:
        info = await store_bytes(layout.blobs, b"weights")
        index = (layout.root / "index.json").read_bytes()
        (layout.root / "index.json").unlink()
        for work in (layout.names(), layout.manifests.put(M, b"1"), layout.listed(), layout.blobs.delete(info.digest)):
            with pytest.raises(StorageError, match="is missing"):
                await work
        (layout.root / "index.json").write_bytes(index)
        assert await layout.listed() == {info.digest}

    asyncio.run(scenario())


def test_a_process_that_is_killed_at_its_first_write_leaves_a_layout(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all of a new index is written, there is none: half of one would make the store unusable."""

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("corral.adapters.stores.oci_layout_index.write_all", dies)
        with pytest.raises(KeyboardInterrupt):
            LayoutContents(layout.root).prepare()
    assert not (layout.root / "index.json").exists()
    contents = LayoutContents(layout.root)
    contents.prepare()
    assert contents.state().all() == []


def test_another_version_of_layouts_is_refused(layout: Layout) -> None:
    """A mark that is malformed, or of a version that does not exist yet, is an error."""
    layout.root.mkdir()
    for mark in ('{"imageLayoutVersion": "2.0.0"}', "{", "3"):
        (layout.root / "oci-layout").write_text(mark)
        with pytest.raises(StorageError, match="version 1"):
            asyncio.run(layout.manifests.put(M, b"1"))


def test_a_folder_with_something_else_is_no_layout(tmp_path: Path) -> None:
    """A folder of Ollama is refused before anything is written to it; an empty one, or none, becomes a layout."""
    (tmp_path / "blobs").mkdir()
    with pytest.raises(SettingsError, match="not an OCI image layout"):
        oci_layout(OciLayoutStoreSettings(root=str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {"blobs"}
    for name in ("absent", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        stores = oci_layout(OciLayoutStoreSettings(root=str(tmp_path / name)))
        asyncio.run(stores.manifests.put(M, b"1"))
        assert (tmp_path / name / "oci-layout").exists()


def test_processes_that_store_at_once_lose_nothing(layout: Layout) -> None:
    """Two processes that put and delete names at the same time both find all of theirs in the index."""
    code = """
        import asyncio, sys
        from pathlib import Path
        from corral.adapters.stores.oci_layout import OciLayoutManifests
        from corral.adapters.stores.oci_layout_contents import LayoutContents
        from corral.core.models.names import parse_name

        async def main() -> None:
            store = OciLayoutManifests(LayoutContents(Path(sys.argv[1])))
            for number in range(15):
                await store.put(parse_name(f"{sys.argv[2]}:{number}"), b"same")
                await store.put(parse_name(f"{sys.argv[2]}:gone"), sys.argv[2].encode())
                assert await store.delete(parse_name(f"{sys.argv[2]}:gone"))

        asyncio.run(main())
    """
    children = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(layout.root), who], stderr=subprocess.PIPE)
        for who in ("one", "two")
    ]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors.decode()
    names = asyncio.run(layout.names())
    assert names == sorted(f"{who}:{number}" for who in ("one", "two") for number in range(15))
    assert layout.files() == {digest_of(b"same")}


async def _imported(layout: Layout, name: ModelName) -> Path:
    file = layout.root.parent / "model.gguf"
    file.write_bytes(gguf_bytes())
    async with AsyncCorral(store=f"oci-layout:{layout.root}", config="") as corral:
        await corral.import_model(file, name=name.short)
    return file


def test_deleting_a_model_leaves_nothing_but_the_layout(layout: Layout) -> None:
    """Import and delete through the library: every blob goes with its model, the marks of a layout stay."""

    async def scenario() -> None:
        await _imported(layout, M)
        assert len(layout.files()) >= 2
        async with AsyncCorral(store=f"oci-layout:{layout.root}", config="") as corral:
            await corral.copy("m", "n")
            await corral.delete("m")
            assert [model.name.short for model in await corral.list()] == ["n:latest"]
            await corral.delete("n")
        assert layout.files() == set()
        assert layout.index()["manifests"] == []

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_copies_models_out_of_a_layout_and_into_it(layout: Layout, tmp_path: Path) -> None:
    """A ModelPack model that skopeo copied to another layout has the same digest and bytes there, and is a model."""

    def skopeo(*arguments: str) -> None:
        subprocess.run(["skopeo", *arguments], check=True, timeout=60, capture_output=True)

    async def scenario() -> None:
        config = await store_bytes(layout.blobs, b"{}")
        weights = await store_bytes(layout.blobs, b"weights")
        kinds = ("config.v1+json", "weight.v1.raw")
        described = [
            {"mediaType": f"application/vnd.cncf.model.{kind}", "digest": info.digest, "size": info.size_bytes}
            for kind, info in zip(kinds, (config, weights), strict=True)
        ]
        manifest = {"schemaVersion": 2, "mediaType": OCI, "config": described[0], "layers": described[1:]}
        stored = await layout.manifests.put(parse_name("user/model:q4"), json.dumps(manifest).encode())
        other = Layout(tmp_path / "other")
        await asyncio.to_thread(
            skopeo, "copy", f"oci:{layout.root}:{stored.name.full}", f"oci:{other.root}:user/model:q4"
        )
        found = await other.manifests.get(stored.name)
        assert found is not None
        assert found.digest == stored.digest
        assert await other.blobs.stat(weights.digest) is not None
        await other.manifests.put(M, b'{"layers": []}')
        await asyncio.to_thread(skopeo, "copy", f"oci:{layout.root}:{stored.name.full}", f"oci:{other.root}:again")
        assert await other.names() == ["again:latest", "m:latest", "user/model:q4"]

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_an_imported_model_answers_from_the_layout_that_skopeo_copied_it_to(layout: Layout, tmp_path: Path) -> None:
    """A GGUF file becomes a ModelPack, which skopeo finds by the model's full name."""

    async def scenario() -> None:
        await _imported(layout, M)
        other = tmp_path / "other"
        command = ["skopeo", "copy", f"oci:{layout.root}:{M.full}", f"oci:{other}:copied:latest"]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=60, capture_output=True)
        async with AsyncCorral(store=f"oci-layout:{other}", engine="fake", config="") as corral:
            assert [model.name.short for model in await corral.list()] == ["copied:latest"]
            assert (await corral.generate("copied", "hello")).text

    asyncio.run(scenario())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
