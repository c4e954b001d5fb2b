"""The event-loop runner: engines that are a `RunningModel` by themselves, in this very loop; remote ones above all."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from corral.adapters.runners.dispatch import Dispatch
from corral.core.engines import EngineSpec, LoadRequest
from corral.core.errors import (
    CorralError,
    EngineDied,
    EngineError,
    EngineNotInstalled,
    LoadFailed,
    OutOfMemory,
    to_error,
)
from corral.core.import_names import import_name
from corral.core.outputs import Embedded, Finished, Output
from corral.core.ports.inference import ModelInfo, OnLoadProgress, RunningModel
from corral.core.requests import Prompt, Request
from corral.core.step_loop import error_info

__all__ = ("EventLoopModel", "EventLoopRunner")

_log = logging.getLogger("corral.engine")


class EventLoopRunner:
    """A `Runner` for engines of the form ``running``, which must not block the loop. Their ``load`` may be a coroutine
    function; a foreign exception of theirs reaches nobody, it becomes an error of ours."""

    name = "event_loop"

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> EventLoopModel:
        if spec.form != "running":
            raise LoadFailed(f"the {spec.name} engine has the form {spec.form!r}, which needs a thread of its own")
        try:
            loaded = import_name(spec.load)(request, on_progress)
            model: RunningModel = await loaded if inspect.isawaitable(loaded) else loaded
        except CorralError:
            raise
        except ImportError as error:
            raise EngineNotInstalled(
                f"the {spec.name} engine cannot be imported: {error}", spec.install_hint
            ) from error
        except MemoryError as error:
            raise OutOfMemory(f"loading {request.model}: out of memory") from error
        except Exception as error:
            raise LoadFailed(f"loading {request.model}: {type(error).__name__}: {error}") from error
        return EventLoopModel(request.model, model)


class EventLoopModel:
    """A `RunningModel` around an engine's own: each request in a task, so that closing the model ends them all."""

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
        """Once, and not while an engine cleans up after its answer: interrupted there, it would lose connections."""
        if task := self._answering.pop(request_id, None):
            task.cancel()

    async def _pump(self, request_id: int, request: Request) -> None:
        async with aclosing(self._model.run(request)) as outputs:
            async for output in outputs:
                self._dispatch.deliver([(request_id, output)])
                if isinstance(output, Finished | Embedded):
                    self._answering.pop(request_id, None)
                    return
        raise EngineError(f"{self._label} ended its answer without saying why")

    def _ended(self, request_id: int, task: asyncio.Task[None]) -> None:
        """Whoever reads the answer still is told what went wrong; one that was aborted has no reader any more."""
        self._tasks.discard(task)
        self._answering.pop(request_id, None)
        error = EngineError(f"{self._label} cancelled its answer") if task.cancelled() else task.exception()
        if error is not None:
            self._dispatch.deliver([(request_id, error_info(error))])
