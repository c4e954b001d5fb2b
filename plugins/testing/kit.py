"""The suites of engines as tests of an installed one, named on pytest's command line.

``pytest -p corral.plugins.testing --pyargs corral.plugins.testing.kit --corral-engine NAME [--corral-model PATH]``
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from corral.core.ports.engines import GeneratorEngine, StepEngine
from corral.core.specs.engines import LoadRequest
from corral.core.specs.imports import import_name
from corral.plugins.testing.generator_engine import GeneratorEngineContract
from corral.plugins.testing.options import engine_of, load_request_of
from corral.plugins.testing.running_model import RunningModelContract
from corral.plugins.testing.step_engine import StepEngineContract

__all__ = ("TestGeneratorEngine", "TestRunningModel", "TestStepEngine")


class TestRunningModel(RunningModelContract):
    """The engine, loaded by the first runner that it allows."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _named(cls, request: pytest.FixtureRequest) -> Iterator[None]:
        cls.spec = engine_of(request.config)
        yield
        del cls.spec

    @pytest.fixture
    def load_request(self, request: pytest.FixtureRequest) -> LoadRequest:
        return load_request_of(request.config)


class TestStepEngine(StepEngineContract):
    """A batching engine by itself, if it may run in this process."""

    @pytest.fixture
    def engine(self, request: pytest.FixtureRequest) -> StepEngine:
        engine: StepEngine = _engine(request.config, "step")
        return engine


class TestGeneratorEngine(GeneratorEngineContract):
    """An engine for one request at a time by itself, if it may run in this process."""

    @pytest.fixture
    def engine(self, request: pytest.FixtureRequest) -> GeneratorEngine:
        engine: GeneratorEngine = _engine(request.config, "generator")
        return engine


def _engine(config: pytest.Config, form: str) -> Any:
    spec = engine_of(config)
    if spec.form != form:
        pytest.skip(f"the {spec.name} engine has the form {spec.form}")
    if "thread" not in spec.runners:
        pytest.skip(f"the {spec.name} engine runs only in a separate process")
    engine = import_name(spec.load)(load_request_of(config), lambda share: None)
    if "completion" not in engine.info.tasks:
        engine.close()
        pytest.skip(f"the {spec.name} engine does no completion with this model")
    return engine
