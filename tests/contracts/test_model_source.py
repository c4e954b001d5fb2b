"""Every model source against its port's suite."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from corral.adapters.sources.hugging_face import HuggingFaceSource
from corral.adapters.sources.pypi import PypiSource
from corral.adapters.sources.web import WebSource
from corral.core.ports.sources import ModelSource
from corral.plugins.testing import ModelSourceContract
from corral.plugins.testing.fake_hub import serve_repository
from corral.plugins.testing.fake_web_server import FakeWebServer
from corral.plugins.testing.gguf import gguf_bytes

_INFO = "tiny_model-1.0.dist-info"


class TestPypi(ModelSourceContract):
    """pip on a folder of wheels: nothing is fetched."""

    @pytest.fixture
    def contents(self) -> Mapping[str, bytes]:
        return {"Tiny.Q4_1.gguf": gguf_bytes() + bytes(range(256)) * 10_000}

    @pytest.fixture
    def source(self, tmp_path: Path, contents: Mapping[str, bytes]) -> ModelSource:
        with zipfile.ZipFile(tmp_path / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
            for name, data in contents.items():
                wheel.writestr(f"tiny_model/{name}", data)
            wheel.writestr(f"{_INFO}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
            wheel.writestr(f"{_INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{_INFO}/RECORD", "")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        index = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
        return PypiSource(clean | index)

    @pytest.fixture
    def reference(self) -> str:
        return "pypi://tiny-model==1.0"

    @pytest.fixture
    def absent(self) -> str:
        return "pypi://absent-model"


class TestWeb(ModelSourceContract):
    """A file on a server, also on one that knows no ranges, and one that redirects to another host."""

    @pytest.fixture(params=["as usual", "without ranges", "elsewhere"])
    def server(self, request: pytest.FixtureRequest, contents: Mapping[str, bytes]) -> Iterator[FakeWebServer]:
        with FakeWebServer({f"/models/{name}": data for name, data in contents.items()}) as server:
            server.knows_ranges = request.param != "without ranges"
            if request.param == "elsewhere":
                for path in list(server.files):
                    server.files[f"/cdn{path}"] = server.files.pop(path)
                    server.redirect(path, f"{server.url.replace('127.0.0.1', 'localhost')}/cdn{path}")
            yield server

    @pytest.fixture
    def contents(self) -> Mapping[str, bytes]:
        return {"Tiny.Q4_1.gguf": gguf_bytes() + bytes(range(256)) * 10_000}

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return WebSource("http", environment={"HOME": str(tmp_path)})

    @pytest.fixture
    def reference(self, server: FakeWebServer) -> str:
        return f"{server.url}/models/Tiny.Q4_1.gguf"

    @pytest.fixture
    def absent(self, server: FakeWebServer) -> str:
        return f"{server.url}/models/Absent.gguf"


class TestHuggingFace(ModelSourceContract):
    """The hub's interface for files, on a server of this machine."""

    @pytest.fixture(params=["GGUF", "ONNX"])
    def contents(self, request: pytest.FixtureRequest) -> Mapping[str, bytes]:
        if request.param == "GGUF":
            return {"Tiny.Q4_1.gguf": gguf_bytes() + bytes(range(256)) * 10_000}
        return {
            "genai_config.json": b'{"model": {"type": "llama", "decoder": {"filename": "model.onnx"}}}',
            "model.onnx": b"\x08\x07" + bytes(100_000),
            "tokenizer.json": b"{}",
        }

    @pytest.fixture
    def server(self, contents: Mapping[str, bytes]) -> Iterator[FakeWebServer]:
        with FakeWebServer() as server:
            serve_repository(server, "owner/tiny", contents)
            yield server

    @pytest.fixture
    def source(self, server: FakeWebServer, tmp_path: Path) -> ModelSource:
        return HuggingFaceSource(environment={"HOME": str(tmp_path), "HF_ENDPOINT": server.url})

    @pytest.fixture
    def reference(self) -> str:
        return "hf://owner/tiny"

    @pytest.fixture
    def absent(self) -> str:
        return "hf://owner/absent"
