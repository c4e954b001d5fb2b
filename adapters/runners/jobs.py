"""Jobs: functions that are called in a separate process because they are native, heavy, or both."""

from __future__ import annotations

import logging
import os
import sys
from typing import TypeVar

import msgspec

from corral.adapters.runners.frame_link import FrameLink
from corral.adapters.runners.frames import PROTOCOL_VERSION, JobDone, JobFrame, JobUpFrame, encode, job_up_decoder
from corral.adapters.runners.spawn import how_it_ended, start_child
from corral.core.error_translation import to_error
from corral.core.errors import JobFailed, PluginError
from corral.core.malformed import MALFORMED
from corral.core.ports.runners import OnLoadProgress

__all__ = ("ProcessJobs",)

_CHILD = "corral.adapters.runners.job_child"

ResultT = TypeVar("ResultT")


class ProcessJobs:
    """A `JobRunner` with one child process per job. Not available on Windows, since it needs inherited sockets."""

    async def run(
        self, function: str, request: msgspec.Struct | None, result: type[ResultT], on_progress: OnLoadProgress
    ) -> ResultT:
        if os.name != "posix":
            raise JobFailed(f"{function} needs a process with inherited sockets, which this system does not have")
        job = _job(function, request)
        link = _JobLink(function, job_up_decoder(), on_progress)
        try:
            child = await start_child(_CHILD, function, link)
        except OSError as error:
            raise JobFailed(f"cannot start a process for {function}: {error}") from error
        try:
            link.write(encode(job))
            told = await link.ended
            if link.answer is not None:
                return _decoded(link.answer, result, function)
            raise await how_it_ended(child, function, JobFailed) if told is None else to_error(told)
        finally:
            link.close()
            await child.destroy()


class _JobLink(FrameLink[JobUpFrame]):
    answer: bytes | None = None

    def take(self, frame: JobUpFrame) -> None:
        if isinstance(frame, JobDone):
            self.answer = frame.answer
            self.end(None)
        else:
            super().take(frame)


def _job(function: str, request: msgspec.Struct | None) -> JobFrame:
    level = logging.getLogger("corral.engine").getEffectiveLevel()
    job = JobFrame(PROTOCOL_VERSION, function, level, tuple(sys.path))
    if request is None:
        return job
    kind = type(request)
    return msgspec.structs.replace(
        job, kind=f"{kind.__module__}:{kind.__qualname__}", request=msgspec.msgpack.encode(request)
    )


def _decoded(answer: bytes, result: type[ResultT], function: str) -> ResultT:
    try:
        return msgspec.msgpack.decode(answer, type=result)
    except MALFORMED as error:
        raise PluginError(f"{function} sent an invalid answer: {error}") from error
