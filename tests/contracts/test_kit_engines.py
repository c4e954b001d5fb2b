"""Every built-in engine, loaded by its runners, against the suite of loaded models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from corral import Corral
from corral.adapters.engines.ctransformers.spec import SPEC as CTRANSFORMERS
from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.llama_cpp.spec import SPEC as LLAMA_CPP
from corral.adapters.engines.onnx_embeddings.spec import SPEC as ONNX_EMBEDDINGS
from corral.adapters.engines.onnx_genai.spec import SPEC as ONNX_GENAI
from corral.adapters.engines.upstream.spec import SPEC as UPSTREAM
from corral.adapters.runners.thread import ThreadRunner
from corral.core.models.model import RemoteModel
from corral.core.ports.runners import Runner
from corral.core.specs.engines import LoadRequest, LocalFile
from corral.plugins.testing import RunningModelContract
from corral.plugins.testing.gguf import gguf_bytes


class _Native(RunningModelContract):
    """With real weights; answers are short, because many engines are tested."""

    @classmethod
    def request_for(cls, path: Path) -> LoadRequest:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return LoadRequest(
            model="smollm2:latest",
            files=tuple(LocalFile(role="weights", path=str(file), name=file.name) for file in files),
            load_options=cls.plain_options(),
        )


class TestFakeInAProcess(RunningModelContract):
    spec = FAKE
    load_options: ClassVar = {"num_ctx": 512, "parallel": 3}


class TestFakeInAThread(RunningModelContract):
    spec = FAKE
    load_options: ClassVar = {"num_ctx": 512, "parallel": 1}

    @pytest.fixture
    def runner(self) -> Runner:
        return ThreadRunner()


@pytest.mark.native
class TestLlamaCpp(_Native):
    spec = LLAMA_CPP
    load_options: ClassVar = {"num_ctx": 512, "num_parallel": 2, "num_thread": 1}

    @pytest.fixture
    def load_request(self, shallow: Callable[[str], Path]) -> LoadRequest:
        return self.request_for(shallow("Q4_1"))


@pytest.mark.native
class TestOnnxGenai(_Native):
    spec = ONNX_GENAI
    load_options: ClassVar = {"num_ctx": 512, "num_parallel": 2, "num_thread": 2}

    @pytest.fixture
    def load_request(self, shallow_onnx: Path) -> LoadRequest:
        return self.request_for(shallow_onnx)


@pytest.mark.native
class TestCtransformers(_Native):
    spec = CTRANSFORMERS
    load_options: ClassVar = {"num_ctx": 512, "num_thread": 1}

    @pytest.fixture
    def load_request(self, shallow_ctransformers: Path) -> LoadRequest:
        return self.request_for(shallow_ctransformers)


@pytest.mark.native
class TestOnnxEmbeddings(_Native):
    spec = ONNX_EMBEDDINGS

    @pytest.fixture
    def load_request(self, minilm_int8: Path) -> LoadRequest:
        return self.request_for(minilm_int8)


class TestUpstream(RunningModelContract):
    """A model behind another Corral."""

    spec = UPSTREAM

    @pytest.fixture
    def load_request(self, address: str) -> LoadRequest:
        return LoadRequest(
            model="far:latest",
            files=(),
            load_options=self.plain_options(),
            remote=RemoteModel(host=address, model="toy"),
        )


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, user_at: Callable[..., Any], serve_corral: Callable[..., Any]
) -> Iterator[str]:
    """A server in a separate process, with a model whose engine needs no weights."""
    home = tmp_path_factory.mktemp("far")
    (home / "toy.gguf").write_bytes(gguf_bytes())
    with Corral(models=home / "models", config="") as corral:
        corral.import_model(home / "toy.gguf", name="toy")
    with serve_corral(user_at(home, CORRAL_ENGINE="fake"), cwd=home) as server:
        yield server.url
