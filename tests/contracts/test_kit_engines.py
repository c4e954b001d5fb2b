"""Every built-in engine, loaded by its runners, through the suite of loaded models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.llama_cpp.spec import SPEC as LLAMA_CPP
from corral.adapters.runners.thread import ThreadRunner
from corral.core.engines import LoadRequest, LocalFile
from corral.core.ports.inference import Runner
from corral.plugins.testing import RunningModelContract


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
class TestLlamaCpp(RunningModelContract):
    spec = LLAMA_CPP
    load_options: ClassVar = {"num_ctx": 512, "num_parallel": 2}

    @pytest.fixture
    def load_request(self, smollm2: Path) -> LoadRequest:
        weights = LocalFile(role="weights", path=str(smollm2))
        return LoadRequest(model="smollm2:latest", files=(weights,), load_options=self.plain_options())
