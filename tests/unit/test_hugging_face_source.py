"""hf:// by the hub's interface for files: what is chosen, who sees the token, and how it goes with the registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.converters.safetensors.spec import CONVERTER
from corral.adapters.engines.llama_cpp.quantizing.spec import CONVERTER as QUANTIZER
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.registries.memory import MemoryRegistry
from corral.adapters.runners.jobs import ProcessJobs
from corral.adapters.sources.hugging_face import HuggingFaceSource
from corral.adapters.sources.hugging_face_choice import RepositoryFile, chosen_gguf
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.conversion.checkpoints import CheckpointConversion
from corral.core.conversion.converting import Converting
from corral.core.conversion.quantizing import WeightsQuantizer
from corral.core.errors import InvalidRequest, SourceError, Unsupported
from corral.core.models.model import StoredModel
from corral.core.ports.blobs import BlobInfo, OnStored
from corral.plugins.testing.fake_hub import serve_repository
from corral.plugins.testing.fake_web_server import FakeWebServer
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.checkpoints.tiny import write_tiny_checkpoint

GGUF = gguf_bytes()
OTHER = gguf_bytes({**SMALL_MODEL, "general.name": "Other"})
PROJECTOR = gguf_bytes({"general.architecture": "clip"})
ONNX_FOLDER = {
    "genai_config.json": b'{"model": {"type": "llama", "context_length": 64, "decoder": {"filename": "model.onnx"}}}',
    "model.onnx": b"\x08\x07" + bytes(100),
    "model.onnx.data": bytes(1000),
    "tokenizer.json": b"{}",
    "model.safetensors": b"left out",
    ".gitattributes": b"left out",
}


@pytest.fixture
def server() -> Iterator[FakeWebServer]:
    with FakeWebServer() as server:
        yield server


class Shop:
    def __init__(self, server: FakeWebServer, home: Path) -> None:
        self.blobs = MemoryBlobs()
        self.manifests = MemoryManifests()
        self.environment = {"HOME": str(home), "HF_ENDPOINT": server.url}

    def pull(self, reference: str, *registries: Any, default: str | None = None) -> StoredModel:
        converting = Converting(
            manifests=self.manifests, blobs=self.blobs, local=self.blobs, jobs=ProcessJobs(), free_memory=dict
        )
        catalog = ModelCatalog(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            formats=[OllamaManifestFormat(), ModelPackFormat()],
            readers=[GgufReader()],
            sources=[HuggingFaceSource(environment=self.environment)],
            registries=registries,
            default_registry=default,
            checkpoints=CheckpointConversion(
                converting=converting, local=self.blobs, converters=[CONVERTER], installation=InstalledPackages()
            ),
            quantizer=WeightsQuantizer(
                converting=converting, local=self.blobs, converters=[QUANTIZER], installation=InstalledPackages()
            ),
            policy=TransferPolicy(pause_s=0.0),
        )
        return asyncio.run(catalog.pull(reference))


@pytest.fixture
def shop(server: FakeWebServer, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(server, tmp_path)
    with closing(shop.blobs):
        yield shop


def listed(*paths: str) -> list[RepositoryFile]:
    return [RepositoryFile(path=path, size_bytes=1) for path in paths]


@pytest.mark.parametrize(
    ("paths", "wanted", "chosen"),
    [
        (["a.Q8_0.gguf", "a.Q4_K_M.gguf"], "", ["a.Q4_K_M.gguf"]),
        (["a.Q8_0.gguf", "a.Q4_K_M.gguf"], "q8_0", ["a.Q8_0.gguf"]),
        (["a-bf16.gguf", "a-f16.gguf"], "F16", ["a-f16.gguf"]),
        (["only.gguf", "README.md"], "", ["only.gguf"]),
        (["Q4_0/a.gguf", "Q8_0/a.gguf"], "Q8_0", ["Q8_0/a.gguf"]),
        (["x/a-Q4_0.gguf", "x/b-Q4_0.gguf"], "b-Q4_0.gguf", ["x/b-Q4_0.gguf"]),
        (["x/a-Q4_0.gguf", "x/b-Q4_0.gguf"], "x/a-Q4_0.gguf", ["x/a-Q4_0.gguf"]),
        (["a-Q4_0.gguf", "mmproj-a-Q8_0.gguf", "mmproj-a-f16.gguf"], "Q4_0", ["a-Q4_0.gguf", "mmproj-a-f16.gguf"]),
        (["q/a-Q4_0.gguf", "mmproj.gguf"], "", ["q/a-Q4_0.gguf", "mmproj.gguf"]),
        (["model.onnx"], "", []),
    ],
)
def test_the_file_that_is_meant(paths: list[str], wanted: str, chosen: list[str]) -> None:
    """A quantization in any case, a file, or else the usual quantization; and the projector beside it."""
    assert [file.path for file in chosen_gguf(listed(*paths), wanted, "o/r")] == chosen


def test_what_cannot_be_chosen() -> None:
    """Errors name what there is."""
    with pytest.raises(SourceError, match="has no Q2_K") as caught:
        chosen_gguf(listed("a.Q8_0.gguf"), "Q2_K", "o/r")
    assert "a.Q8_0.gguf" in str(caught.value.remedy)
    with pytest.raises(SourceError, match="several files for Q4_0"):
        chosen_gguf(listed("a-Q4_0.gguf", "b-Q4_0.gguf"), "Q4_0", "o/r")
    with pytest.raises(SourceError, match=r"lacks a-Q4_0-00002-of-00002.gguf"):
        chosen_gguf(listed("a-Q4_0-00001-of-00002.gguf"), "Q4_0", "o/r")


def test_a_gguf_with_its_projector(shop: Shop, server: FakeWebServer) -> None:
    """Both are stored as one model, which has the name that the registry's would have."""
    serve_repository(server, "o/r", {"a-Q4_K_M.gguf": GGUF, "a-Q8_0.gguf": OTHER, "mmproj.gguf": PROJECTOR})
    record = shop.pull("hf://o/r")
    assert [file.role for file in record.files if file.role != "config"] == ["weights", "projector"]
    assert not [request for request in server.seen if "a-Q8_0" in request.path]


def test_an_onnx_folder(shop: Shop, server: FakeWebServer, either_store: tuple[Any, Any]) -> None:
    """The files of the folder are one model, with their paths; what belongs to other frameworks is not fetched."""
    shop.blobs, shop.manifests = either_store
    serve_repository(server, "o/r", {f"cpu/int4/{path}": data for path, data in ONNX_FOLDER.items()}, page=3)
    record = shop.pull("hf://o/r")
    paths = {file.path for file in record.files if file.path}
    assert paths == {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"}
    assert (record.format, record.family, record.name.short) == ("onnx", "llama", "int4:latest")
    assert not [request for request in server.seen if "safetensors" in request.path]


def test_a_checkpoint_is_converted(
    shop: Shop, server: FakeWebServer, either_store: tuple[Any, Any], tmp_path: Path
) -> None:
    """A repository with nothing but safetensors gives what importing its folder would; what was fetched is not kept."""
    shop.blobs, shop.manifests = either_store
    folder = write_tiny_checkpoint(tmp_path / "tiny", files=2)
    served = {f"sub/{file.name}": file.read_bytes() for file in folder.iterdir()}
    serve_repository(server, "o/r", {**served, "sub/README.md": b"left out", "sub/pytorch_model.bin": b"left out"})
    record = shop.pull("hf://o/r:sub")
    assert (record.format, record.family, record.quantization, record.name.short) == (
        "gguf",
        "llama",
        "F16",
        "sub:latest",
    )
    assert record.converted_from is not None
    assert not [request for request in server.seen if "README" in request.path or ".bin" in request.path]

    async def left() -> int:
        return len([info async for info in shop.blobs.list()])

    assert asyncio.run(left()) == 2  # the weights, and the config of the manifest


def test_a_checkpoint_is_quantized(shop: Shop, server: FakeWebServer, tmp_path: Path) -> None:
    """A type that no file of the repository has is what the weights become, unless a folder is called so; what cannot
    become it is refused before anything is fetched, or once it is known how wide the model is."""
    pytest.importorskip("llama_cpp")
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    serve_repository(server, "o/r", files)
    with pytest.raises(InvalidRequest, match="IQ1_S needs an importance matrix"):
        shop.pull("hf://o/r:IQ1_S")
    assert not [request for request in server.seen if "resolve" in request.path]
    wide = write_tiny_checkpoint(tmp_path / "wide", width=256)
    serve_repository(server, "o/wide", {file.name: file.read_bytes() for file in wide.iterdir()})
    with pytest.raises(InvalidRequest, match="IQ3_XS needs an importance matrix"):
        shop.pull("hf://o/wide:IQ3_XS")
    assert not [request for request in server.seen if "resolve" in request.path and "safetensors" in request.path]
    record = shop.pull("hf://o/r:q8_0")
    assert (record.name.short, record.quantization) == ("r:q8_0", "Q8_0")
    assert shop.pull("hf://o/r:BF16").quantization == "BF16"
    serve_repository(server, "o/folders", {f"bf16/{name}": data for name, data in files.items()})
    record = shop.pull("hf://o/folders:bf16")
    assert (record.name.short, record.quantization) == ("bf16:latest", "F16")
    serve_repository(server, "o/onnx", ONNX_FOLDER)
    with pytest.raises(SourceError, match="its ONNX model cannot be quantized to Q4_K_M"):
        shop.pull("hf://o/onnx:q4_k")


def test_a_conversion_that_is_cancelled_at_its_end(
    shop: Shop, server: FakeWebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are in the store already, and are removed again."""
    serve_repository(
        server, "o/r", {file.name: file.read_bytes() for file in write_tiny_checkpoint(tmp_path / "tiny").iterdir()}
    )
    adopt, made = shop.blobs.adopt, []

    async def cancelled(file: Path, *, on_stored: OnStored) -> BlobInfo:
        made.append((await adopt(file, on_stored=on_stored)).digest)
        raise asyncio.CancelledError

    monkeypatch.setattr(shop.blobs, "adopt", cancelled)
    with pytest.raises(asyncio.CancelledError):
        shop.pull("hf://o/r")
    assert asyncio.run(shop.blobs.stat(made[0])) is None


def test_a_checkpoint_that_nobody_converts(shop: Shop, server: FakeWebServer, tmp_path: Path) -> None:
    """The error names its architecture; what the hub gave no digest for is not kept."""
    folder = write_tiny_checkpoint(tmp_path / "tiny", architecture="CrowForCausalLM")
    serve_repository(server, "o/r", {file.name: file.read_bytes() for file in folder.iterdir()})
    with pytest.raises(Unsupported, match="CrowForCausalLM"):
        shop.pull("hf://o/r")


def test_a_repository_without_a_model(shop: Shop, server: FakeWebServer) -> None:
    """The error says what it has, and nothing is fetched."""
    serve_repository(server, "o/r", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    with pytest.raises(SourceError, match=r"no GGUF or ONNX files, but \*\.bin, \*\.json"):
        shop.pull("hf://o/r")


def test_the_token_is_shown_to_the_hub_alone(shop: Shop, server: FakeWebServer) -> None:
    """The hub gets it with every request; the storage that it redirects to does not."""
    serve_repository(server, "o/r", {"a.gguf": GGUF})
    with FakeWebServer({"/cdn": GGUF}) as storage:
        for path in [path for path in server.files if path.endswith("/a.gguf")]:
            server.redirect(path, f"{storage.url}/cdn")
        server.demand = "Bearer hf_secret"
        with pytest.raises(SourceError, match="access denied"):
            shop.pull("hf://o/r")
        shop.environment["HF_TOKEN"] = "hf_secret"
        assert shop.pull("hf://o/r").name.short == "a:q4_1"
        assert storage.seen
        assert not any("authorization" in request.headers for request in storage.seen)


def test_a_revision(shop: Shop, server: FakeWebServer) -> None:
    """Behind @ is a branch, a tag or a commit; one that is not there is named in the error."""
    serve_repository(server, "o/r", {"a.gguf": GGUF}, revision="v1.0")
    assert shop.pull("hf://o/r:a.gguf@v1.0").name.short == "a:q4_1"
    with pytest.raises(SourceError, match="no o/r@v2"):
        shop.pull("hf://o/r@v2")


def test_the_registry_comes_first(shop: Shop, server: FakeWebServer) -> None:
    """A name on hf.co is asked of the registry; if that has no manifest, the files are pulled under the same name."""
    serve_repository(server, "o/r", {"a-Q4_K_M.gguf": GGUF, "a-Q8_0.gguf": OTHER})
    registry = MemoryRegistry()
    default = registry.schemes[0]
    assert shop.pull("hf.co/o/r:Q8_0", registry, default=default).name.short == "hf.co/o/r:Q8_0"
    assert [request for request in server.seen if "a-Q8_0" in request.path]


@pytest.mark.parametrize(
    "reference",
    [
        "hf://",
        "hf://o/r/x/y",
        "hf://../r",
        "hf://o/r:../x.gguf",
        "hf://o/r@../main",
        "hf://o/r@sha256:1",
        "hf://o/r:a?b",
    ],
)
def test_references_that_mean_nothing(shop: Shop, server: FakeWebServer, reference: str) -> None:
    """They are refused before anything is asked."""
    with pytest.raises(InvalidRequest):
        shop.pull(reference)
    assert server.seen == []


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"sha": "../main"}', b"\xff"])
def test_a_hub_that_says_no_commit(shop: Shop, server: FakeWebServer, answer: bytes) -> None:
    """It is told as a fault of the source."""
    server.answers["/api/models/o/r/revision/main"] = (200, answer, {})
    with pytest.raises(SourceError):
        shop.pull("hf://o/r")


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "file", "path": "a.gguf", "size": -1},
        {"type": "file", "path": "a.gguf", "size": 1, "lfs": {"oid": "12"}},
        {"type": "file"},
        "a.gguf",
    ],
)
def test_a_hub_that_lists_nonsense(shop: Shop, server: FakeWebServer, entry: object) -> None:
    """Neither sizes nor digests are taken on trust."""
    commit = serve_repository(server, "o/r", {"a.gguf": GGUF})
    listing = f"/api/models/o/r/tree/{commit}?recursive=true"
    server.answers[listing] = (200, json.dumps([entry]).encode(), {})
    with pytest.raises(SourceError):
        shop.pull("hf://o/r")


@pytest.mark.parametrize("path", ["../../up.json", "/etc/passwd.json", "a/../../up.json"])
def test_a_hub_that_lists_paths_outside_of_the_folder(shop: Shop, server: FakeWebServer, path: str) -> None:
    """They are not fetched, whatever else there is."""
    serve_repository(server, "o/r", {**ONNX_FOLDER, path: b"{}"})
    assert path not in {file.path for file in shop.pull("hf://o/r").files}


@pytest.mark.parametrize("endpoint", ["http://[", "ftp://host", "http://192.0.2.1", "host"])
def test_an_endpoint_that_cannot_be_used(shop: Shop, endpoint: str) -> None:
    """HF_ENDPOINT is an address with TLS, or one of this machine."""
    shop.environment["HF_ENDPOINT"] = endpoint
    with pytest.raises(InvalidRequest):
        shop.pull("hf://o/r")
