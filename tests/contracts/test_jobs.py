"""Job runners against their port's suite, and what can happen only with real processes."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from corral.adapters.runners.jobs import ProcessJobs
from corral.core.ports.jobs import JobRunner
from corral.plugins.testing.jobs import JobRunnerContract, Task, TaskDone
from tests.orphans import runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs need POSIX systems")

JOBS = "corral.plugins.testing.jobs"


class TestProcessJobs(JobRunnerContract):
    @pytest.fixture
    def jobs(self) -> JobRunner:
        return ProcessJobs()


def test_logs_of_a_job_carry_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """Records arrive at their level; what is printed is for debugging."""
    with caplog.at_level(logging.DEBUG, "corral.engine"):
        asyncio.run(ProcessJobs().run(f"{JOBS}:double", Task(number=5), TaskDone, lambda share: None))
    told = {(record.levelno, record.getMessage()) for record in caplog.records}
    assert (logging.WARNING, f"{JOBS}:double: WARNING:corral.test:working on 5") in told
    assert any(level == logging.DEBUG and "a line on stdout" in message for level, message in told)


def test_a_job_dies_with_its_parent(tmp_path: Path) -> None:
    """A job's process ends when its parent is killed."""
    file = tmp_path / "pid"
    script = textwrap.dedent(
        f"""
        import asyncio
        from corral.adapters.runners.jobs import ProcessJobs
        from corral.plugins.testing.jobs import Task, TaskDone
        asyncio.run(ProcessJobs().run("{JOBS}:linger", Task(file={str(file)!r}), TaskDone, lambda share: None))
        """
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
    job = int(file.read_text())
    deadline = time.monotonic() + 30
    while runs(job):
        assert time.monotonic() < deadline
        time.sleep(0.01)
