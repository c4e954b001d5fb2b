"""The job port: native or heavy work that must not run in this process."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from corral.core.ports.runners import OnLoadProgress

__all__ = ("JobRunner",)

ResultT = TypeVar("ResultT")


class JobRunner(Protocol):
    """Runs functions of importable modules in a separate process: converting, looking for devices."""

    async def run(
        self, function: str, request: msgspec.Struct | None, result: type[ResultT], on_progress: OnLoadProgress
    ) -> ResultT:
        """What ``package.module:function`` returns for ``(request, on_progress)``, or without arguments if `request` is
        None.

        `request` and the result are sent as MessagePack; the latter is decoded as `result`. `on_progress` is called in
        the event loop with the share done, 0 to 1. Cancelling the call kills the process and waits for its end.

        An error of `corral.core.errors` that the function raises is raised here. A full disk becomes `OutOfSpace` and
        exhausted memory `OutOfMemory`; any other foreign error becomes `JobFailed`, and so does a process that dies,
        with its signal and last lines.
        """
        ...
