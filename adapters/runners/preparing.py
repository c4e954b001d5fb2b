"""Prepares one model's requests in parallel to its steps: their texts, what their engine wants to do, their masks.

Each may take seconds, for a request that is made to be slow.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from corral.adapters.runners.request_masks import RequestMasks
from corral.adapters.runners.text_threads import Steps, TextThreads
from corral.adapters.runners.texts import RequestTexts
from corral.core.errors import ErrorInfo
from corral.core.ports.engines import Prepared
from corral.core.ports.tokens import RequestMask
from corral.core.requests.requests import Request
from corral.core.stepping.answer_driver import needs_mask
from corral.core.stepping.loops import EngineLoop, error_info

__all__ = ("Preparation", "Preparing")

_MASK_THREADS = 4
_ENGINE_THREADS = 2
"""The two kinds do not wait for each other, and within each kind a slow request leaves threads for others."""
_NICENESS = 5


class Preparation:
    """A request that is being prepared for the loop.

    When `done` is called, either `request`, `mask` and `prepared` are final, or `error` is set.
    """

    __slots__ = ("_given_up", "_job", "_stages", "arrived_ns", "error", "mask", "prepared", "request", "request_id")

    def __init__(self, request_id: int, request: Request) -> None:
        self.request_id = request_id
        self.request = request
        self.arrived_ns = time.perf_counter_ns()
        self.mask: RequestMask | None = None
        self.prepared: Prepared | None = None
        self.error: ErrorInfo | None = None
        self._stages: deque[Callable[[Preparation], None]] = deque()
        self._job: Future[None] | None = None
        self._given_up = False

    def drop(self) -> None:
        """Free what was prepared but is no longer needed."""
        if self.prepared is not None:
            self.prepared.close()


class Preparing:
    """Threads, started when they are first needed. `done` is called in them.

    Work that has not begun when it is given up, or at `close`, never begins; what is ready after `close` is dropped.
    """

    def __init__(self, loop: EngineLoop, done: Callable[[Preparation], None]) -> None:
        engine = loop.engine
        self._loop = loop
        self._texts = RequestTexts(engine.info, engine.tokenizer)
        self._masks = RequestMasks(engine)
        self._done = done
        self._text_threads: TextThreads[Preparation] = TextThreads("texts", self._advance)
        self._mask_threads: ThreadPoolExecutor | None = None
        self._engine_threads: ThreadPoolExecutor | None = None
        self._closed = False
        self._lock = threading.Lock()  # never held for long, because the loop's thread needs it

    def begin(self, request_id: int, request: Request) -> Preparation | None:
        """Begin to prepare a request; return None if there is nothing to prepare. Otherwise `done` gets the returned
        object, unless `close` or `give_up` comes first. Called in the loop's thread. Raises what the engine's
        `needs_preparing` raises.
        """
        text_work = self._texts.work_on(request)
        needs_engine = self._loop.needs_preparing(request)
        masked = needs_mask(request)
        if text_work is None and not needs_engine and not masked:
            return None
        preparation = Preparation(request_id, request)
        if text_work is not None:
            steps, characters = text_work
            begun = _taken_up(preparation, steps)
            preparation._stages.append(
                lambda one: self._text_threads.begin(one, begun, characters, request.caller.principal.name)
            )
        if needs_engine:
            preparation._stages.append(self._begin_engine)
        if masked:
            preparation._stages.append(self._begin_mask)
        self._advance(preparation)
        return preparation

    def give_up(self, preparation: Preparation) -> None:
        """Stop preparing a request. Called in the loop's thread."""
        self._text_threads.give_up(preparation)
        with self._lock:
            preparation._given_up = True
            if preparation._job is not None and preparation._job.cancel():
                preparation.drop()  # the engine's part may be ready while the mask is not

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._text_threads.close()
        for threads in (self._mask_threads, self._engine_threads):
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)

    def _advance(self, preparation: Preparation) -> None:
        """Begin the next stage, or pass on the complete request."""
        with self._lock:
            if not self._closed and not preparation._given_up:
                if preparation._stages and preparation.error is None:
                    preparation._stages.popleft()(preparation)
                else:
                    self._done(preparation)
                return
        preparation.drop()

    def _begin_engine(self, preparation: Preparation) -> None:
        if self._engine_threads is None:
            self._engine_threads = _threads(_ENGINE_THREADS, "preparation")
        preparation._job = self._engine_threads.submit(self._prepare, preparation)

    def _begin_mask(self, preparation: Preparation) -> None:
        if self._mask_threads is None:
            self._mask_threads = _threads(_MASK_THREADS, "constraints")
        preparation._job = self._mask_threads.submit(self._make_mask, preparation)

    def _prepare(self, preparation: Preparation) -> None:
        try:
            preparation.prepared = self._loop.prepare(preparation.request)
        except BaseException as error:
            preparation.error = error_info(error)
        self._advance(preparation)

    def _make_mask(self, preparation: Preparation) -> None:
        try:
            preparation.mask = self._masks.mask(preparation.request)
        except BaseException as error:  # a panic of native code is not an Exception
            preparation.error = error_info(error)
        self._advance(preparation)


def _taken_up(preparation: Preparation, steps: Steps[Request]) -> Steps[Preparation]:
    try:
        preparation.request = yield from steps
    except GeneratorExit:
        raise
    except BaseException as error:
        preparation.error = error_info(error)
    return preparation


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_yield_to_steps)


def _yield_to_steps() -> None:
    """On Linux, lower the priority of this thread below those that compute answers."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
