"""Every engine adapter against its port's suite."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions, FakeTokenizer
from corral.core.ports.engines import GeneratorEngine, StepEngine
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import EngineOutput, Prefilled, Token
from corral.core.requests.requests import CompletionRequest, Request
from corral.plugins.testing import GeneratorEngineContract, StepEngineContract


class TestFakeEngine(StepEngineContract):
    @pytest.fixture
    def engine(self) -> StepEngine:
        return FakeEngine(FakeLoadOptions(parallel=2))

    @pytest.fixture
    def vocabulary_size(self) -> int | None:
        return len(FakeTokenizer().pieces)


class Hasty(FakeEngine):
    """The fake engine, three times as fast: a step may yield several tokens for one request."""

    def step(self) -> list[tuple[int, EngineOutput]]:
        outputs = super().step()
        for _ in range(2):
            if self.has_unfinished_requests():
                outputs += super().step()
        return outputs


class TestHasty(StepEngineContract):
    @pytest.fixture
    def engine(self) -> StepEngine:
        return Hasty(FakeLoadOptions(parallel=2))

    @pytest.fixture
    def vocabulary_size(self) -> int | None:
        return len(FakeTokenizer().pieces)


class Echo:
    """The smallest engine: it repeats the prompt."""

    info = ModelInfo(tasks=frozenset({"completion"}))
    tokenizer = FakeTokenizer()

    def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput, None, None]:
        assert isinstance(request, CompletionRequest)
        [ids] = self.tokenizer.encode([request.prompt])
        yield Prefilled(prompt_tokens=len(ids))
        for token_id in ids:
            yield Token(token_id=token_id, piece=self.tokenizer.decode([token_id]))

    def close(self) -> None:
        pass


class TestEcho(GeneratorEngineContract):
    @pytest.fixture
    def engine(self) -> GeneratorEngine:
        return Echo()
