"""Manifests put under names: the bytes of one that exists are kept, and a new one is completed from its weights."""

from __future__ import annotations

import asyncio
import json

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.publishing import BlobGone, ManifestPublisher
from corral.core.errors import StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import Model, ModelFile
from corral.core.models.names import ModelName, parse_name
from corral.plugins.testing.gguf import gguf_bytes

_NAME = parse_name("m")
_FORMATS = (OllamaManifestFormat(), ModelPackFormat())


class Store:
    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self.manifests = MemoryManifests()
        self.publisher = ManifestPublisher(
            manifests=self.manifests, blobs=self.blobs, local=self.blobs, formats=_FORMATS
        )
        self.catalog = ModelCatalog(
            manifests=self.manifests, blobs=self.blobs, local=self.blobs, formats=_FORMATS, readers=[GgufReader()]
        )

    async def add(self, data: bytes) -> ModelFile:
        writer = await self.blobs.begin(digest_of(data), len(data))
        await writer.write(0, data)
        await writer.commit()
        return ModelFile(role="weights", media_type="", digest=digest_of(data), size_bytes=len(data))

    async def digests(self) -> set[Digest]:
        return {info.digest async for info in self.blobs.list()}


def test_a_manifest_that_exists_keeps_its_bytes() -> None:
    """Its digest is that of the bytes as another program wrote them: with their spaces, order and unknown fields."""

    async def scenario() -> None:
        store = Store()
        weights = await store.add(gguf_bytes())
        written, (config, *_) = OllamaManifestFormat().write(_NAME, Model(format="gguf", files=(weights,)))
        foreign = json.dumps({"annotations": {"by": "another"}, **json.loads(written)}, indent=3).encode()
        await store.add(config)
        published = await store.publisher.put(_NAME, foreign)
        assert published.record.digest == digest_of(foreign) != digest_of(written)
        assert published.record.size_bytes == len(config) + weights.size_bytes
        stored = await store.manifests.get(_NAME)
        assert stored is not None
        assert stored.data == foreign
        assert await store.catalog.get(_NAME) == published.record

    asyncio.run(scenario())


def test_a_manifest_is_put_only_if_it_is_whole() -> None:
    """A missing blob, and one that no dialect recognises, leave no model and no text behind."""

    async def scenario() -> None:
        store = Store()
        file = ModelFile(role="weights", media_type="", digest=digest_of(b"absent"), size_bytes=6)
        manifest, texts = OllamaManifestFormat().write(_NAME, Model(files=(file,)))
        with pytest.raises(BlobGone, match="'m:latest' has been deleted"):
            await store.publisher.put(_NAME, manifest, texts)
        with pytest.raises(StorageError, match="no known format"):
            await store.publisher.put(_NAME, b"{}", texts)
        assert await store.manifests.get(_NAME) is None
        assert await store.digests() == set()

    asyncio.run(scenario())


class _Sketch(OllamaManifestFormat):
    """A format that can hold any model."""

    @property
    def name(self) -> str:
        return "sketch"

    def write(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
        return b"a sketch", ()


def test_a_store_may_prefer_a_format() -> None:
    """New models are written in it, but what only Ollama's manifests can say keeps their form."""
    blobs = MemoryBlobs()
    formats = (*_FORMATS, _Sketch())
    for preferred, renderer, sketched in ((["sketch"], None, True), (["sketch"], "qwen3", False), ([], None, False)):
        publisher = ManifestPublisher(
            manifests=MemoryManifests(), blobs=blobs, local=blobs, formats=formats, preferred=preferred
        )
        file = ModelFile(role="weights", media_type="", digest=digest_of(b"weights"), size_bytes=7)
        manifest, _ = publisher.written(_NAME, Model(format="gguf", files=(file,), renderer=renderer))
        assert (manifest == b"a sketch") is sketched


def test_a_new_model_is_completed_from_its_weights() -> None:
    """What it leaves out is filled in from its weights' header; what it says stays."""

    async def scenario() -> None:
        store = Store()
        weights = await store.add(gguf_bytes())
        record = await store.catalog.publish(_NAME, Model(files=(weights,), quantization="MINE"))
        assert (record.format, record.family, record.quantization) == ("gguf", "llama", "MINE")
        assert record.families == ("llama",)

    asyncio.run(scenario())
