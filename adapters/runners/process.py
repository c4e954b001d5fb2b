"""The process runner: each model runs in a child process, which isolates crashes and frees all memory at its end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import Any

import msgspec

from corral.adapters.runners.dispatch import Dispatch
from corral.adapters.runners.dispatched_model import DispatchedModel
from corral.adapters.runners.frames import PROTOCOL_VERSION, Close, Load, up_decoder
from corral.adapters.runners.parent_link import Link
from corral.adapters.runners.settings import ProcessSettings
from corral.adapters.runners.spawn import ChildProcess, how_it_ended, start_child
from corral.core.error_translation import map_errors, to_error
from corral.core.errors import CorralError, EngineDied, EngineStalled, ErrorInfo, LoadFailed
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import EngineSpec, LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("ProcessModel", "ProcessRunner")

_CHILD = "corral.adapters.runners.child"
_CHECKS = 4
"""How often the watchdog checks within the heartbeat limit."""


class ProcessRunner:
    """A `Runner`. Not available on Windows, since it needs inherited sockets; use the thread runner there."""

    name = "process"

    def __init__(self, settings: ProcessSettings | None = None) -> None:
        self._settings = settings or ProcessSettings()

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> ProcessModel:
        if os.name != "posix":
            raise LoadFailed(
                "the process runner needs inherited sockets, which this system does not have", "use runner = thread"
            )
        link = Link(request.model, up_decoder(spec.output_types), on_progress)
        with map_errors({OSError: LoadFailed}, f"cannot start a process for {request.model}"):
            child = await start_child(_CHILD, request.model, link)
        model: ProcessModel | None = None
        try:
            link.send(_load_frame(spec, request, self._settings))
            waited: list[asyncio.Future[Any]] = [link.ready, link.ended]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if link.ended.done():
                raise to_error(await _why(link, child, request.model))
            model = ProcessModel(request.model, child, link, link.ready.result(), self._settings)
            return model
        finally:
            if model is None:
                link.close()
                await child.destroy()


async def _why(link: Link, child: ChildProcess, label: str) -> ErrorInfo:
    """The child's own error, or how its process ended."""
    told = link.ended.result()
    if told is not None:
        return told
    return (await how_it_ended(child, label, EngineDied)).info


def _load_frame(spec: EngineSpec, request: LoadRequest, settings: ProcessSettings) -> Load:
    return Load(
        protocol=PROTOCOL_VERSION,
        engine=spec.name,
        form=spec.form,
        load=spec.load,
        request=msgspec.structs.replace(request, close_grace_s=settings.close_grace_s),
        heartbeat_s=min(1.0, settings.heartbeat_timeout_s / 5),
        log_level=logging.getLogger("corral.engine").getEffectiveLevel(),
        install_hint=install_line(spec),
        path=tuple(sys.path),
        request_types=tuple(f"{kind.__module__}:{kind.__qualname__}" for kind in spec.request_types),
        output_types=tuple(f"{kind.__module__}:{kind.__qualname__}" for kind in spec.output_types),
    )


class ProcessModel(DispatchedModel):
    """A `RunningModel` in a child process."""

    def __init__(
        self, label: str, child: ChildProcess, link: Link, dispatch: Dispatch, settings: ProcessSettings
    ) -> None:
        super().__init__(label, dispatch, link.calls)
        self._child = child
        self._link = link
        self._settings = settings
        self._silent_checks = 0
        self._closing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._attending = self._loop.create_task(self._attend(), name=f"attend {label}")
        self._watch = self._loop.call_later(settings.heartbeat_timeout_s / _CHECKS, self._check)

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name=f"close {self._label}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._fail(EngineDied(f"{self._label} was unloaded"))
        self._link.send(Close())
        for force in (self._child.terminate, self._child.kill):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._child.exited), self._settings.close_grace_s)
                break
            force()
        await self._child.exited
        self._link.close()
        await self._attending

    async def _attend(self) -> None:
        """Wait for the child's end, whatever its cause, and report the reason to all requests."""
        await self._link.ended
        self._fail(to_error(await _why(self._link, self._child, self._label)))
        if self._closing is None:
            self._link.close()
            self._child.kill()

    def _check(self) -> None:
        """Check for signs of life.

        Counts its own ticks, so that a server that was blocked itself does not blame the child.
        """
        self._silent_checks = 0 if self._link.heard else self._silent_checks + 1
        self._link.heard = False
        if self._silent_checks >= _CHECKS:
            self._stalled(f"did not respond for {self._settings.heartbeat_timeout_s:g} s")
        elif self._link.step_s > self._settings.step_timeout_s:
            self._stalled(f"was stuck in one step for over {self._settings.step_timeout_s:g} s")
        else:
            self._watch = self._loop.call_later(self._settings.heartbeat_timeout_s / _CHECKS, self._check)

    def _stalled(self, how: str) -> None:
        self._fail(EngineStalled(f"the process of {self._label} {how} and was stopped"))
        self._child.kill()

    def _fail(self, error: CorralError) -> None:
        self._watch.cancel()
        self._link.fail(error.info)
