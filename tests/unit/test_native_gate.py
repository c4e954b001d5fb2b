"""No native code gets a file whose header a reader refuses, whatever its role in the model, however it came here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.create_calls import CreateCall
from corral.core.errors import InvalidModelFile
from corral.core.models.model import FileRole, Model, ModelFile
from corral.core.models.names import parse_name
from corral.core.models.references import parse_reference
from corral.core.ports.registries import Registry
from corral.plugins.testing.blob_writing import store_bytes
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes
from corral.plugins.testing.registry import MemoryRegistry, push_model

GOOD = gguf_bytes()
PROJECTOR = gguf_bytes({"general.architecture": "clip"})
BAD = gguf_bytes(SMALL_MODEL, [TensorEntry("a"), TensorEntry("a")])  # llama.cpp checks this; others may not
NOT_GGUF = b"MZ\x90 something else"


def _catalog(root: Path, *registries: Registry) -> ModelCatalog:
    blobs = FilesystemBlobs(root)
    return ModelCatalog(
        manifests=FilesystemManifests(root),
        blobs=blobs,
        local=blobs,
        formats=[OllamaManifestFormat(), ModelPackFormat()],
        readers=[GgufReader()],
        registries=registries,
    )


async def _given(root: Path, *files: tuple[FileRole, bytes, str | None]) -> list[str]:
    """The roles of the files that an engine gets of a model which consists of these."""
    catalog, blobs = _catalog(root), FilesystemBlobs(root)
    kept = []
    for role, data, path in files:
        info = await store_bytes(blobs, data)
        kept.append(ModelFile(role=role, media_type="", digest=info.digest, size_bytes=info.size_bytes, path=path))
    record = await catalog.publish(parse_name("m"), Model(format="gguf", family="llama", files=tuple(kept)))
    async with catalog.loadable_files(record) as loadable:
        return sorted(file.role for file in loadable)


@pytest.mark.parametrize("projector", [BAD, NOT_GGUF, PROJECTOR[:40], b""])
def test_a_bad_projector_is_left_out(tmp_path: Path, projector: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The model runs without it, which is logged; a good one is given."""
    weights: tuple[FileRole, bytes, str | None] = ("weights", GOOD, None)
    assert asyncio.run(_given(tmp_path, weights, ("projector", projector, None))) == ["weights"]
    assert "is loaded without its projector" in caplog.text
    assert asyncio.run(_given(tmp_path, weights, ("projector", PROJECTOR, None))) == ["projector", "weights"]


@pytest.mark.parametrize("role", ["adapter", "draft"])
def test_a_bad_adapter_or_draft_is_refused(tmp_path: Path, role: FileRole) -> None:
    """Without it the answers would be others, so nothing is loaded."""
    with pytest.raises(InvalidModelFile, match="occurs twice"):
        asyncio.run(_given(tmp_path, ("weights", GOOD, None), (role, BAD, None)))


@pytest.mark.parametrize("role", ["weights", "config", "other"])
def test_a_bad_part_of_a_folder_is_refused(tmp_path: Path, role: FileRole) -> None:
    """A loader finds the parts of split weights by their names, whatever the manifest calls them."""
    with pytest.raises(InvalidModelFile, match="occurs twice"):
        asyncio.run(_given(tmp_path, ("weights", GOOD, "m-00001-of-00002.gguf"), (role, BAD, "m-00002-of-00002.gguf")))


def test_bad_weights_never_become_a_model(tmp_path: Path) -> None:
    """Their header is read before the manifest is written."""
    with pytest.raises(InvalidModelFile, match="occurs twice"):
        asyncio.run(_given(tmp_path, ("weights", BAD, None)))


def test_bad_weights_are_neither_imported_nor_created(tmp_path: Path) -> None:
    """Both ways, the header is read first, and nothing is left of the model."""
    file = tmp_path / "bad.gguf"
    file.write_bytes(BAD)

    async def scenario() -> None:
        catalog = _catalog(tmp_path / "store")
        with pytest.raises(InvalidModelFile, match="occurs twice"):
            await catalog.import_file(file, parse_name("m"))
        info = await store_bytes(FilesystemBlobs(tmp_path / "store"), BAD)
        with pytest.raises(InvalidModelFile, match="occurs twice"):
            await catalog.creator.create(
                CreateCall(name=parse_name("m"), files={"bad.gguf": info.digest}), lambda progress: None
            )
        assert await catalog.list() == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("layers", "roles"),
    [
        ([("model", BAD)], None),
        ([("model", GOOD), ("adapter", BAD)], None),
        ([("model", GOOD), ("projector", BAD)], ["weights"]),
        ([("model", GOOD), ("projector", PROJECTOR)], ["projector", "weights"]),
    ],
)
def test_what_a_registry_sends_is_read_before_it_is_loaded(
    tmp_path: Path, layers: list[tuple[str, bytes]], roles: list[str] | None
) -> None:
    """A pulled manifest is stored as it is; whoever loads the model gets its files only after their headers were
    read."""

    async def scenario() -> None:
        registry = MemoryRegistry()
        typed = [(f"application/vnd.ollama.image.{kind}", data) for kind, data in layers]
        await push_model(registry, parse_reference("mem://host/m"), b'{"model_format": "gguf"}', *typed)
        catalog = _catalog(tmp_path, registry)
        record = await catalog.pull("mem://host/m", parse_name("m"))
        if roles is None:
            with pytest.raises(InvalidModelFile, match="occurs twice"):
                async with catalog.loadable_files(record):
                    pass
        else:
            async with catalog.loadable_files(record) as files:
                assert sorted(file.role for file in files) == roles

    asyncio.run(scenario())
