"""Every runner against its port's suite."""

from __future__ import annotations

import pytest

from corral.adapters.runners.process import ProcessRunner
from corral.adapters.runners.thread import ThreadRunner
from corral.core.ports.runners import Runner
from corral.plugins.testing.runner import RunnerContract


class TestThreadRunner(RunnerContract):
    @pytest.fixture
    def runner(self) -> Runner:
        return ThreadRunner()


class TestProcessRunner(RunnerContract):
    @pytest.fixture
    def runner(self) -> Runner:
        return ProcessRunner()
