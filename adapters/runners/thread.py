"""The thread runner: each model runs in a thread of this process.

For the library, and for systems without child processes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import msgspec

from corral.adapters.runners.calls import TokenizerCalls
from corral.adapters.runners.dispatch import Dispatch
from corral.adapters.runners.dispatched_model import DispatchedModel
from corral.adapters.runners.frames import Abort, Add, Close, Result
from corral.adapters.runners.outbox import Outbox
from corral.adapters.runners.stepping import Command, Stepper, load_engine
from corral.adapters.runners.tokenizing import Tokenizing
from corral.core.errors import Cancelled, EngineDied, ErrorInfo
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo
from corral.core.requests.requests import Request
from corral.core.specs.engines import EngineSpec, LoadRequest
from corral.core.stepping.loops import EngineLoop, Outcome, error_info
from corral.core.wording.pip_lines import install_line

__all__ = ("ThreadModel", "ThreadRunner")

_log = logging.getLogger("corral.engine")

_CLOSE_GRACE_S = 10.0
"""How long unloading waits for the engine's thread to end."""


class ThreadRunner:
    """A `Runner`.

    A thread cannot be killed: a cancelled load ends at its next progress report, and a closed model at the end of its
    step. Closing waits for at most ten seconds.
    """

    name = "thread"

    async def load(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> ThreadModel:
        worker = _Worker(spec, msgspec.structs.replace(request, close_grace_s=_CLOSE_GRACE_S), on_progress)
        try:
            loop = await asyncio.shield(worker.loaded)
        except asyncio.CancelledError:
            worker.abandon()
            raise
        return ThreadModel(request.model, worker, loop)


class _Worker:
    """The engine's thread. It reports to the event loop once per step."""

    def __init__(self, spec: EngineSpec, request: LoadRequest, on_progress: OnLoadProgress) -> None:
        self._event_loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[EngineLoop] = self._event_loop.create_future()
        self.ended: asyncio.Future[BaseException | None] = self._event_loop.create_future()
        self.inbox: SimpleQueue[Command] = SimpleQueue()
        self.deliver: Callable[[list[Outcome]], None] = lambda outcomes: None
        self.on_info: Callable[[ModelInfo], None] = lambda info: None
        self._spec = spec
        self._request = request
        self._on_progress = on_progress
        self.info = ModelInfo(tasks=frozenset())  # until it is loaded
        self._abandoned = False
        self._outbox = Outbox()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name=f"engine {request.model}", daemon=True).start()

    def abandon(self) -> None:
        self._abandoned = True
        self.inbox.put(Close())
        self.loaded.add_done_callback(lambda done: done.exception())  # avoids a warning that it was never retrieved

    # ── In the thread ─────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        problem: BaseException | None = None
        try:
            loop = self._load()
        except BaseException as error:
            self._tell(self.loaded.set_exception, error)
            return
        try:
            self._tell(self.loaded.set_result, loop)
            Stepper(loop, self.inbox, self._post, lambda info: self._tell(self._take_info, info)).run()
        except BaseException as error:
            _log.exception("%s: the engine failed", self._request.model)
            problem = error
        finally:
            try:
                loop.engine.close()
            except Exception:
                _log.exception("%s: closing the engine", self._request.model)
            self._tell(self.ended.set_result, problem)

    def _load(self) -> EngineLoop:
        spec = self._spec
        loop, self.info = load_engine(
            engine=spec.name,
            form=spec.form,
            load=spec.load,
            install_hint=install_line(spec),
            request=self._request,
            on_progress=self._progress,
        )
        return loop

    def _progress(self, share: float) -> None:
        if self._abandoned:
            raise Cancelled(f"loading {self._request.model} was cancelled")
        self._tell(self._on_progress, share)

    def _post(self, outcomes: list[Outcome]) -> None:
        with self._lock:
            scheduled = bool(self._outbox)
            self._outbox.add(outcomes)
        if not scheduled:
            self._tell(self._hand_over, None)

    def _tell(self, tell: Callable[[Any], object], value: Any) -> None:
        try:
            self._event_loop.call_soon_threadsafe(tell, value)
        except RuntimeError:  # the event loop was closed without closing us: end
            self.inbox.put(Close())

    # ── In the event loop ─────────────────────────────────────────────────────────────────────────────────────────

    def _take_info(self, info: ModelInfo) -> None:
        self.info = info  # for a model that is not made yet
        self.on_info(info)

    def _hand_over(self, _: None) -> None:
        with self._lock:
            outcomes = self._outbox.take()
        self.deliver(outcomes)


class ThreadModel(DispatchedModel):
    """A `RunningModel` in a thread."""

    def __init__(self, label: str, worker: _Worker, loop: EngineLoop) -> None:
        self._worker = worker
        self._event_loop = asyncio.get_running_loop()
        self._tokenizing = Tokenizing(loop.engine.tokenizer, self._take_result)
        calls = TokenizerCalls(begin=self._tokenizing.begin, give_up=self._tokenizing.give_up)
        super().__init__(label, Dispatch(worker.info, add=self._add, abort=self._abort), calls)
        worker.deliver = self._dispatch.deliver
        worker.on_info = self._info_changed
        worker.ended.add_done_callback(self._ended)

    async def aclose(self) -> None:
        self._end(EngineDied(f"{self._label} was unloaded").info)
        self._worker.inbox.put(Close())
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._worker.ended), _CLOSE_GRACE_S)

    def _info_changed(self, info: ModelInfo) -> None:
        self._dispatch.info = info

    def _take_result(self, result: Result) -> None:
        """Called in a thread of the tokenizer."""
        with suppress(RuntimeError):  # the event loop was closed
            self._event_loop.call_soon_threadsafe(self._calls.take, result)

    def _end(self, error: ErrorInfo) -> None:
        self._dispatch.fail(error)
        self._tokenizing.close()
        self._calls.fail(error)

    def _add(self, request_id: int, request: Request) -> None:
        self._worker.inbox.put(Add(request_id, request))

    def _abort(self, request_id: int) -> None:
        self._worker.inbox.put(Abort(request_id))

    def _ended(self, ended: asyncio.Future[BaseException | None]) -> None:
        problem = ended.result()
        self._end(EngineDied(f"{self._label} has ended").info if problem is None else error_info(problem))
