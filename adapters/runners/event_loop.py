"""The event-loop runner, for engines that are a `RunningModel` themselves in this event loop: mainly upstreams."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from corral.adapters.runners.dispatch import Dispatch
from corral.core.containment import interrupts_reach_us
from corral.core.error_translation import to_error
from corral.core.errors import (
    CorralError,
    EngineDied,
    EngineError,
    EngineNotInstalled,
    LoadFailed,
    OutOfMemory,
    Unsupported,
)
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Ranked
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import Request
from corral.core.specs.engines import EngineSpec, LoadRequest
from corral.core.specs.imports import import_name
from corral.core.stepping.loops import error_info
from corral.core.wording.pip_lines import install_line

__all__ = ("EventLoopModel", "EventLoopRunner")

_log = logging.getLogger("corral.engine")

_AHEAD_BYTES = 256 * 1024
"""How far an engine may run ahead of the reader of its answer."""
_OUTPUT_BYTES = 64


class EventLoopRunner:
    """A `Runner` for engines of the form ``running``, which must not block the loop.

    Their ``load`` may be a coroutine function; exceptions that are not Corral's become errors of Corral.
    """

    name = "event_loop"

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> EventLoopModel:
        if spec.form != "running":
            raise LoadFailed(f"the {spec.name} engine has the form {spec.form!r}, which does not run in an event loop")
        try:
            loaded = import_name(spec.load)(request, on_progress)
            model: RunningModel = await loaded if inspect.isawaitable(loaded) else loaded
        except CorralError:
            raise
        except ImportError as error:
            raise EngineNotInstalled(
                f"the {spec.name} engine cannot be imported: {error}", install_line(spec)
            ) from error
        except MemoryError as error:
            raise OutOfMemory(f"loading {request.model}: out of memory") from error
        except (Exception, SystemExit) as error:
            raise LoadFailed(f"loading {request.model}: {type(error).__name__}: {error}") from error
        return EventLoopModel(request.model, model)


class EventLoopModel:
    """A `RunningModel` around the engine's own.

    Each request runs in a task, so that closing the model ends them all.
    """

    def __init__(self, label: str, model: RunningModel) -> None:
        self._label = label
        self._model = model
        self._dispatch = Dispatch(model.info, add=self._add, abort=self._abort)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._closing: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    @property
    def alive(self) -> bool:
        return self._dispatch.alive and self._model.alive

    def run(self, request: Request) -> AsyncGenerator[Output, None]:
        if self._dispatch.alive and not self._model.alive:
            self._dispatch.fail(EngineDied(f"{self._label} has ended").info)
        return self._dispatch.run(request)

    async def tokenize(
        self, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
    ) -> list[tuple[int, ...]]:
        try:
            return await self._model.tokenize(prompts, most=most, cut=cut)
        except Exception as error:
            raise to_error(error_info(error)) from error

    async def detokenize(self, ids: Sequence[int]) -> str:
        try:
            return await self._model.detokenize(ids)
        except Exception as error:
            raise to_error(error_info(error)) from error

    async def pieces(self, ids: Sequence[int]) -> list[bytes]:
        if not hasattr(self._model, "pieces"):  # a plugin's that is older than this method
            raise Unsupported(f"the engine of {self._label} does not spell single tokens")
        try:
            return await self._model.pieces(ids)
        except Exception as error:
            raise to_error(error_info(error)) from error

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close {self._label}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._dispatch.fail(EngineDied(f"{self._label} was unloaded").info)
        for request_id in list(self._answering):
            self._abort(request_id)
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            await self._model.aclose()
        except Exception:
            _log.exception("%s: closing the engine", self._label)

    def _add(self, request_id: int, request: Request) -> None:
        task = asyncio.create_task(self._pump(request_id, request), name=f"answer of {self._label}")
        self._tasks.add(task)
        self._answering[request_id] = task
        task.add_done_callback(lambda done: self._ended(request_id, done))

    def _abort(self, request_id: int) -> None:
        """Cancel once, and not while the engine cleans up: interrupted then, it would lose connections."""
        if task := self._answering.pop(request_id, None):
            task.cancel()

    async def _pump(self, request_id: int, request: Request) -> None:
        ahead_bytes = 0
        try:
            async with aclosing(self._model.run(request)) as outputs:
                async for output in outputs:
                    self._dispatch.deliver([(request_id, output)])
                    if isinstance(output, Finished | Embedded | Ranked):
                        self._answering.pop(request_id, None)
                        return
                    ahead_bytes += _size_bytes(output)
                    if ahead_bytes > _AHEAD_BYTES:  # making an engine wait slows down the server it reads from
                        await self._dispatch.taken(request_id)
                        ahead_bytes = 0
        except (SystemExit, KeyboardInterrupt) as fault:  # in a task, these would end the event loop
            if isinstance(fault, KeyboardInterrupt) and interrupts_reach_us():
                raise
            raise EngineError(f"the engine of {self._label} raised {type(fault).__name__}") from fault
        raise EngineError(f"{self._label} ended its answer without a reason")

    def _ended(self, request_id: int, task: asyncio.Task[None]) -> None:
        """Report what went wrong to the reader. An aborted request no longer has one."""
        self._tasks.discard(task)
        self._answering.pop(request_id, None)
        error = EngineError(f"{self._label} cancelled its answer") if task.cancelled() else task.exception()
        if error is not None:
            self._dispatch.deliver([(request_id, error_info(error))])


def _size_bytes(output: Output) -> int:
    if isinstance(output, Delta):
        return _OUTPUT_BYTES + len(output.text) + len(output.thinking) + _OUTPUT_BYTES * len(output.logprobs)
    return _OUTPUT_BYTES
