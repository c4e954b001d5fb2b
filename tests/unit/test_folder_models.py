"""Models of several files in the catalog: imported, loaded by their paths, hidden if derived, deleted completely."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.unused_blobs import every_manifest
from corral.core.errors import BlobNotFound, Conflict, InvalidModelFile, ModelNotFound, OutOfSpace, Unsupported
from corral.core.models.digests import Digest, digest_of
from corral.core.models.folder_facts import folder_facts
from corral.core.models.model import FileRole, Model, ModelFile, StoredModel, TemplateText
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.blobs import BlobInfo, OnStored, ignore_digest
from corral.core.ports.manifests import ManifestStore
from corral.core.specs.converters import DERIVED_HOST
from corral.plugins.testing.gguf import gguf_bytes

ONNX = b"\x08\x08weights of an encoder"
ENCODER = {
    "model.onnx": ONNX,
    "tokenizer.json": b"{}",
    "config.json": json.dumps(
        {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 384, "max_position_embeddings": 512}
    ).encode(),
    "modules.json": b"[]",
    "sentence_bert_config.json": b'{"max_seq_length": 256}',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "README.md": b"# An encoder",
    "LICENSE": b"Do as you like.",
}
GENERATOR = {
    "genai_config.json": json.dumps(
        {"model": {"type": "llama", "context_length": 2048, "decoder": {"filename": "model.onnx", "hidden_size": 64}}}
    ).encode(),
    "model.onnx": b"\x08\x08graph",
    "model.onnx.data": b"weights beside the graph",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b'{"bos_token": "<s>", "eos_token": {"content": "</s>"}}',
    "chat_template.jinja": b"{{ bos_token }}{{ messages }}",
    "style.onnx_adapter": b"lora",
}


class Store:
    """A catalog and its parts, for tests that look inside."""

    def __init__(self, blobs: Any, manifests: ManifestStore) -> None:
        self.blobs = blobs
        self.manifests = manifests
        self._parts: dict[str, Any] = {
            "manifests": manifests,
            "blobs": blobs,
            "local": blobs,
            "formats": [OllamaManifestFormat(), ModelPackFormat()],
        }

    def catalog(self) -> ModelCatalog:
        return ModelCatalog(**self._parts, readers=[GgufReader()])

    async def digests(self) -> set[Digest]:
        return {info.digest async for info in self.blobs.list()}

    async def derive(self, source: StoredModel, files: Mapping[str, bytes], tag: str = "0123456789ab") -> StoredModel:
        """What a deriver would leave: files adopted, and published under a derived name."""
        assert source.weights is not None
        name = ModelName(host=DERIVED_HOST, namespace=source.weights.digest[7:], model="onnx", tag=tag)
        stored = [await self._blob(path, data) for path, data in files.items()]
        model = msgspec.structs.replace(source.content(), format="onnx", files=tuple(stored))
        return await self.catalog().publish(name, model)

    async def _blob(self, path: str, data: bytes) -> ModelFile:
        writer = await self.blobs.begin(None, len(data))
        await writer.write(0, data)
        info = await writer.commit()
        role: FileRole = "weights" if "onnx" in path else "config"
        return ModelFile(role=role, media_type="", digest=info.digest, size_bytes=info.size_bytes, path=path)


@pytest.fixture
def store(either_store: tuple[Any, Any]) -> Store:
    return Store(*either_store)


def _folder(tmp_path: Path, files: Mapping[str, bytes], name: str = "My-Encoder-int8") -> Path:
    folder = tmp_path / name
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def _shown(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        {"additional_chat_templates/tool_use.jinja": b"{{ tools }}"},
        {
            "tokenizer_config.json": json.dumps(
                {
                    "chat_template": [
                        {"name": "default", "template": "{{ bos_token }}{{ messages }}"},
                        {"name": "tool_use", "template": "{{ tools }}"},
                    ]
                }
            ).encode()
        },
    ],
)
def test_a_separate_template_for_tools(files: Mapping[str, bytes]) -> None:
    """It is in a folder of its own, or among the named templates of the tokenizer."""
    template = folder_facts({**GENERATOR, **files}).template
    assert template is not None
    assert (template.text, template.tools_text) == ("{{ bos_token }}{{ messages }}", "{{ tools }}")


def test_a_sentence_encoder_is_imported(store: Store, tmp_path: Path) -> None:
    """Name, quantization, family, lengths, license and capabilities come from the folder and its files."""

    async def scenario() -> None:
        told: list[str] = []
        record = await store.catalog().import_file(
            _folder(tmp_path, ENCODER), None, lambda progress: told.append(progress.status)
        )
        assert record.name.short == "my-encoder:int8"
        assert (record.format, record.family, record.quantization) == ("onnx", "bert", "INT8")
        assert (record.context_length, record.embedding_length) == (256, 384)
        assert record.licenses == ("Do as you like.",)
        assert await store.catalog().capabilities(record) == ("embedding",)
        assert {file.path for file in record.files} == set(ENCODER)
        assert await store.catalog().describe(record, verbose=False) == {
            "general.architecture": "bert",
            "bert.context_length": 256,
            "bert.embedding_length": 384,
        }
        assert told[-2:] == ["writing manifest", "success"]
        assert [found.name for found in await store.catalog().list()] == [record.name]

    asyncio.run(scenario())


def test_a_generator_is_imported(store: Store, tmp_path: Path) -> None:
    """A folder with genai_config.json can chat: its template is there, with the tokens that the template asks for."""

    async def scenario() -> None:
        record = await store.catalog().import_file(_folder(tmp_path, GENERATOR, "Chatty"))
        assert record.name.short == "chatty:latest"
        assert (record.family, record.context_length, record.embedding_length) == ("llama", 2048, 64)
        assert record.template == TemplateText(
            kind="jinja", text="{{ bos_token }}{{ messages }}", bos_text="<s>", eos_text="</s>"
        )
        assert await store.catalog().capabilities(record) == ("completion",)
        assert [file.path for file in record.files_of("adapter")] == ["style.onnx_adapter"]

    asyncio.run(scenario())


def test_files_to_load_lie_in_one_folder(store: Store, tmp_path: Path) -> None:
    """Each file has its own path in one folder, weights first; `show` still sees the blobs."""

    async def scenario() -> None:
        catalog = store.catalog()
        record = await catalog.import_file(_folder(tmp_path, GENERATOR))
        async with catalog.loadable_files(record) as files:
            root = Path(files[0].path).parent
            assert {Path(file.path) for file in files} == {root / (file.name or "") for file in files}
            assert _shown(root) == GENERATOR
            assert files[0].role == "weights"
        assert all(file.path != shown.path for file, shown in zip(files, catalog.local_files(record), strict=True))

    asyncio.run(scenario())


def test_a_single_file_is_loaded_as_its_blob(store: Store, tmp_path: Path) -> None:
    """A GGUF has no folder, and its file name is not kept."""
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())

    async def scenario() -> None:
        catalog = store.catalog()
        record = await catalog.import_file(tmp_path / "m.gguf")
        async with catalog.loadable_files(record) as [file]:
            assert (file.role, file.name) == ("weights", None)
            assert await asyncio.to_thread(Path(file.path).read_bytes) == gguf_bytes()

    asyncio.run(scenario())


def test_weights_of_other_frameworks_stay_out(store: Store, tmp_path: Path) -> None:
    """Hidden files, programs, pictures, other weights and unused ONNX variants are not imported."""
    noise = {
        "model.safetensors": b"",
        "pytorch_model.bin": b"",
        ".gitattributes": b"",
        ".git/config": b"",
        "openvino/openvino_model.xml": b"",
        "openvino/openvino_model.bin": b"",
        "train.py": b"",
        "onnx/model_fp16.onnx": ONNX,
        "onnx/model_fp16.onnx_data": b"its weights",
    }
    moved = {("onnx/model.onnx" if path == "model.onnx" else path): data for path, data in ENCODER.items()}

    async def scenario() -> None:
        record = await store.catalog().import_file(_folder(tmp_path, {**moved, **noise}))
        assert {file.path for file in record.files} == set(moved)

    asyncio.run(scenario())


def _without(*paths: str) -> dict[str, bytes]:
    return {path: data for path, data in ENCODER.items() if path not in paths}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "not a known kind of model folder"),
        ({"README.md": b"words"}, "not a known kind of model folder"),
        ({"model.safetensors": b""}, "weights of a checkpoint, but config.json is missing"),
        ({"config.json": b"{}", "weights.safetensors": b""}, r"are named model\*\.safetensors, and here is weights"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "is an adapter, not a model"),
        (_without("tokenizer.json"), "tokenizer.json is missing"),
        ({**_without("model.onnx"), "a.onnx": ONNX, "b.onnx": ONNX}, r"several ONNX files \(a.onnx, b.onnx\)"),
        ({**ENCODER, "model.onnx": b"version https://git-lfs"}, "not an ONNX model"),
        ({**ENCODER, "model.onnx": b""}, "not an ONNX model"),
        ({**ENCODER, "config.json": b"{"}, "config.json is malformed"),
        ({**ENCODER, "Config.json": b"{}"}, "occurs twice"),
        ({**GENERATOR, "genai_config.json": b"[]"}, "genai_config.json is malformed"),
        ({path: data for path, data in GENERATOR.items() if path != "model.onnx"}, "model.onnx that genai_config"),
    ],
)
def test_what_is_no_model_is_refused(store: Store, tmp_path: Path, files: Mapping[str, bytes], complaint: str) -> None:
    """The error gives the reason, and nothing is left in the store."""
    folder = _folder(tmp_path, files)
    folder.mkdir(exist_ok=True)

    async def scenario() -> None:
        with pytest.raises(InvalidModelFile, match=complaint):
            await store.catalog().import_file(folder)
        assert await store.digests() == set()
        assert await store.catalog().list() == []

    asyncio.run(scenario())


def test_links_are_not_followed_out_of_the_folder(store: Store, tmp_path: Path) -> None:
    """A link to a file elsewhere is refused with a remedy; one inside the folder is the file it leads to."""
    (tmp_path / "secret").write_bytes(b"secret")
    folder = _folder(tmp_path, _without("config.json"))
    os.symlink("modules.json", folder / "also.json")
    os.symlink("/", folder / "everything")

    async def scenario() -> None:
        record = await store.catalog().import_file(folder)
        assert {"also.json", "modules.json"} <= {file.path for file in record.files}
        os.symlink(tmp_path / "secret", folder / "config.json")
        with pytest.raises(InvalidModelFile, match="outside of the folder") as refused:
            await store.catalog().import_file(folder)
        assert refused.value.remedy is not None

    asyncio.run(scenario())


def test_a_file_that_is_too_large_beside_the_weights_is_refused(store: Store, tmp_path: Path) -> None:
    """A settings file of gigabytes is ignored."""
    folder = _folder(tmp_path, ENCODER)
    with (folder / "vocab.txt").open("wb") as sparse:
        sparse.truncate(200 * 1024 * 1024)

    async def scenario() -> None:
        with pytest.raises(InvalidModelFile, match=r"vocab\.txt has \d+ bytes"):
            await store.catalog().import_file(folder)

    asyncio.run(scenario())


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    """If one file cannot be stored, the others are deleted again, except those that another model has."""

    class Full(FilesystemBlobs):
        async def adopt(self, file: Path, *, on_stored: OnStored = ignore_digest) -> BlobInfo:
            if file.name == "tokenizer.json":
                raise OutOfSpace("the disk is full")
            return await super().adopt(file, on_stored=on_stored)

    store = Store(FilesystemBlobs(tmp_path / "models"), FilesystemManifests(tmp_path / "models"))
    full = Store(Full(tmp_path / "models"), FilesystemManifests(tmp_path / "models"))

    async def scenario() -> None:
        shared = {**GENERATOR, "config.json": ENCODER["config.json"]}
        await store.catalog().import_file(_folder(tmp_path, shared, "first"))
        before = await store.digests()
        with pytest.raises(OutOfSpace):
            await full.catalog().import_file(_folder(tmp_path, ENCODER, "second"))
        assert await store.digests() == before

    asyncio.run(scenario())


def test_a_deleted_folder_model_is_gone_whole(tmp_path: Path) -> None:
    """Blobs, the folder of links and its note are deleted; the imported files stay."""
    root = tmp_path / "models"
    store = Store(FilesystemBlobs(root), FilesystemManifests(root))

    async def scenario() -> None:
        folder = _folder(tmp_path, ENCODER)
        catalog = store.catalog()
        record = await catalog.import_file(folder)
        async with catalog.loadable_files(record):
            pass
        await catalog.delete(record.name)
        assert await store.digests() == set()
        assert not list((root / ".corral" / "folders").iterdir())
        assert _shown(folder) == ENCODER

    asyncio.run(scenario())


def test_a_copy_keeps_the_folder(store: Store, tmp_path: Path) -> None:
    """Two names of one manifest share one folder; it is deleted with the last name."""

    async def scenario() -> None:
        catalog = store.catalog()
        record = await catalog.import_file(_folder(tmp_path, ENCODER))
        await catalog.copy(record.name, parse_name("again"))
        async with catalog.loadable_files(record) as files:
            root = Path(files[0].path).parent
        await catalog.delete(record.name)
        assert _shown(root) == ENCODER
        await catalog.delete(parse_name("again"))
        assert not root.exists()

    asyncio.run(scenario())


def test_a_folder_model_that_lost_a_file_says_so(store: Store, tmp_path: Path) -> None:
    """Loading a model whose blob is gone is BlobNotFound."""

    async def scenario() -> None:
        record = await store.catalog().import_file(_folder(tmp_path, ENCODER))
        await store.blobs.delete(digest_of(ONNX))
        with pytest.raises(BlobNotFound):
            async with store.catalog().loadable_files(record):
                pass

    asyncio.run(scenario())


def test_derived_models_are_hidden_and_go_with_their_source(store: Store, tmp_path: Path) -> None:
    """They are listed only on request, and deleted with the last model that has the weights they came from."""
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())

    async def scenario() -> None:
        catalog = store.catalog()
        source = await catalog.import_file(tmp_path / "m.gguf")
        other = await catalog.import_file(_folder(tmp_path, ENCODER))
        derived = await store.derive(source, GENERATOR)
        names = {record.name.key for record in await catalog.list(derived=True)}
        assert names == {source.name.key, other.name.key, derived.name.key}
        assert derived.name.key not in {record.name.key for record in await catalog.list()}
        await catalog.copy(source.name, parse_name("again"))
        await catalog.delete(source.name)
        assert await catalog.get(derived.name) == derived
        await catalog.delete(parse_name("again"))
        with pytest.raises(ModelNotFound):
            await catalog.get(derived.name)
        assert await store.digests() == {*(file.digest for file in other.files), *_configs(await _stored(store))}

    asyncio.run(scenario())


def test_what_was_derived_from_a_derived_model_goes_too(store: Store, tmp_path: Path) -> None:
    """Deleting a source deletes everything derived from it."""
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())

    async def scenario() -> None:
        catalog = store.catalog()
        source = await catalog.import_file(tmp_path / "m.gguf")
        first = await store.derive(source, {"model.onnx": b"\x08first"})
        await store.derive(first, {"model.onnx": b"\x08second"}, "ba9876543210")
        assert len(await catalog.list(derived=True)) == 3
        await catalog.delete(source.name)
        assert await catalog.list(derived=True) == []
        assert await store.digests() == set()

    asyncio.run(scenario())


def test_a_derived_model_can_be_deleted_alone(store: Store, tmp_path: Path) -> None:
    """Its source stays, with its weights."""
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())

    async def scenario() -> None:
        catalog = store.catalog()
        source = await catalog.import_file(tmp_path / "m.gguf")
        derived = await store.derive(source, GENERATOR)
        await catalog.delete(derived.name)
        assert [record.name for record in await catalog.list(derived=True)] == [source.name]
        assert await catalog.metadata(source) is not None

    asyncio.run(scenario())


def test_published_blobs_must_be_there(store: Store) -> None:
    """A record with a blob that the store does not have is a Conflict, and no model of that name appears."""

    async def scenario() -> None:
        digest = digest_of(b"absent")
        file = ModelFile(role="weights", media_type="", digest=digest, size_bytes=6, path="model.onnx")
        with pytest.raises(Conflict, match=r"model\.onnx"):
            await store.catalog().publish(parse_name("m"), Model(files=(file,)))
        assert await store.catalog().list() == []

    asyncio.run(scenario())


def test_what_no_dialect_can_hold_is_refused(store: Store) -> None:
    """No manifest can hold a settings file without a path; each dialect says why."""
    file = ModelFile(role="config", media_type="", digest=digest_of(b""), size_bytes=0)

    async def scenario() -> None:
        with pytest.raises(Unsupported, match=r"ollama: .*; modelpack: "):
            await store.catalog().publish(parse_name("m"), Model(files=(file,)))

    asyncio.run(scenario())


async def _stored(store: Store) -> list[bytes]:
    return [stored.data async for stored in every_manifest(store.manifests)]


def _configs(manifests: list[bytes]) -> set[str]:
    return {json.loads(data)["config"]["digest"] for data in manifests}
