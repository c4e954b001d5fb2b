"""The suite that every runner of jobs must pass: `JobRunnerContract`, with the functions that its jobs call."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest

from corral.core.errors import CorralError, InvalidModelFile, JobFailed, OutOfMemory, OutOfSpace, PluginError
from corral.core.ports.jobs import JobRunner
from corral.core.ports.runners import OnLoadProgress

__all__ = ("JobRunnerContract", "Task", "TaskDone")

_HERE = __name__


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The request of the jobs below: a number, and a file for those that leave a trace."""

    number: int = 0
    file: str = ""


class TaskDone(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    process_id: int


def double(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Reports progress, logs, prints, and returns twice the number."""
    on_progress(0.25)
    logging.getLogger("corral.test").warning("working on %d", task.number)
    print("a line on stdout")
    on_progress(1)
    return TaskDone(number=2 * task.number, process_id=os.getpid())


def numbers() -> list[int]:
    """Takes no request."""
    return [1, 2, 3]


def unsendable() -> object:
    """Returns something that is not data."""
    return object()


def refuse(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Raises a `CorralError`."""
    raise InvalidModelFile(f"file {task.number} is broken", "fetch it again")


def stumble(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Raises a foreign exception."""
    raise ZeroDivisionError(f"cannot divide {task.number}")


def overflow(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Fails because the disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


def outgrow(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Fails because the file is too large."""
    raise OSError(errno.EFBIG, "File too large")


def exhaust(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Fails because memory is exhausted."""
    raise MemoryError("cannot allocate 7 GiB")


def crash(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Crashes as native code does."""
    print("assertion failed: the last words", flush=True)
    os.kill(os.getpid(), signal.SIGABRT)
    raise AssertionError("still alive")


def leave(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Ends the process without any clean-up."""
    sys.stdout.flush()
    os._exit(3)


def linger(task: Task, on_progress: OnLoadProgress) -> TaskDone:
    """Writes its process id to the file, and then takes very long."""
    part = Path(f"{task.file}.part")
    part.write_text(str(os.getpid()))
    part.rename(task.file)
    on_progress(0.1)
    time.sleep(3600)
    raise AssertionError("nobody waits for this")


def _ignore(share: float) -> None:
    pass


def _gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


class JobRunnerContract:
    """Subclass it and provide the fixture `jobs`."""

    @pytest.fixture
    def jobs(self) -> JobRunner:
        raise NotImplementedError("the derived class gives the job runner")

    def test_a_job_answers_from_another_process(self, jobs: JobRunner) -> None:
        """Request and result arrive as they were sent, and the function runs in another process."""
        done = asyncio.run(jobs.run(f"{_HERE}:double", Task(number=21), TaskDone, _ignore))
        assert done.number == 42
        assert done.process_id != os.getpid()
        assert _gone(done.process_id)

    def test_progress_comes_in_order_and_in_the_event_loop(self, jobs: JobRunner) -> None:
        """Every report of progress arrives before the result."""
        shares: list[float] = []

        async def check() -> None:
            loop = asyncio.get_running_loop()

            def on_progress(share: float) -> None:
                assert asyncio.get_running_loop() is loop
                shares.append(share)

            await jobs.run(f"{_HERE}:double", Task(number=1), TaskDone, on_progress)

        asyncio.run(check())
        assert shares == [0.25, 1.0]

    def test_a_job_without_a_request(self, jobs: JobRunner) -> None:
        """A function without a request is called without arguments."""
        assert asyncio.run(jobs.run(f"{_HERE}:numbers", None, list[int], _ignore)) == [1, 2, 3]

    def test_many_jobs_at_once(self, jobs: JobRunner) -> None:
        """Each job gets its own result."""

        async def check() -> list[TaskDone]:
            return await asyncio.gather(
                *(jobs.run(f"{_HERE}:double", Task(number=number), TaskDone, _ignore) for number in range(4))
            )

        assert [done.number for done in asyncio.run(check())] == [0, 2, 4, 6]

    def test_errors_of_ours_pass(self, jobs: JobRunner) -> None:
        """An error keeps its class, message and remedy."""
        with pytest.raises(InvalidModelFile, match="file 7 is broken") as caught:
            asyncio.run(jobs.run(f"{_HERE}:refuse", Task(number=7), TaskDone, _ignore))
        assert caught.value.remedy == "fetch it again"

    def test_foreign_exceptions_are_job_failed(self, jobs: JobRunner) -> None:
        """Other exceptions become `JobFailed`, with their class and text."""
        with pytest.raises(JobFailed, match="ZeroDivisionError: cannot divide 7"):
            asyncio.run(jobs.run(f"{_HERE}:stumble", Task(number=7), TaskDone, _ignore))

    @pytest.mark.parametrize(
        ("function", "kind"), [("overflow", OutOfSpace), ("outgrow", OutOfSpace), ("exhaust", OutOfMemory)]
    )
    def test_a_full_disk_and_full_memory_have_their_own_errors(
        self, jobs: JobRunner, function: str, kind: type[CorralError]
    ) -> None:
        """The message says what to do."""
        with pytest.raises(kind, match=r"No space left|File too large|cannot allocate 7 GiB"):
            asyncio.run(jobs.run(f"{_HERE}:{function}", Task(), TaskDone, _ignore))

    @pytest.mark.parametrize("function", [f"{_HERE}:nothing", "corral_no_such_package:function"])
    def test_a_function_that_is_not_there(self, jobs: JobRunner, function: str) -> None:
        """The error names the function that does not exist."""
        with pytest.raises((PluginError, JobFailed), match=r"nothing|corral_no_such_package"):
            asyncio.run(jobs.run(function, Task(), TaskDone, _ignore))

    @pytest.mark.parametrize(("function", "result"), [("unsendable", int), ("numbers", TaskDone)])
    def test_a_wrong_answer_is_the_plugins_fault(self, jobs: JobRunner, function: str, result: type) -> None:
        """A result that is not data, or of another type than announced, is an error."""
        with pytest.raises(PluginError, match=function):
            asyncio.run(jobs.run(f"{_HERE}:{function}", None, result, _ignore))

    @pytest.mark.parametrize(
        ("function", "told"), [("crash", "SIGABRT.*the last words"), ("leave", "exited with code 3")]
    )
    def test_a_process_that_dies(self, jobs: JobRunner, function: str, told: str) -> None:
        """The error is `JobFailed`, with the signal or exit code, and the last lines."""
        with pytest.raises(JobFailed, match=told):
            asyncio.run(jobs.run(f"{_HERE}:{function}", Task(), TaskDone, _ignore))

    def test_cancelling_ends_the_process(self, jobs: JobRunner, tmp_path: Path) -> None:
        """The process is gone when the cancelled call returns."""

        async def check() -> int:
            task = Task(file=str(tmp_path / "pid"))
            started = asyncio.Event()
            job = asyncio.create_task(jobs.run(f"{_HERE}:linger", task, TaskDone, lambda share: started.set()))
            await asyncio.wait_for(started.wait(), 60)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            return int((tmp_path / "pid").read_text())

        assert _gone(asyncio.run(check()))
