"""Prepares one model's requests beside its steps: masks for constraints, and what else its engine needs time for.

Either may take seconds, for a request that somebody made up to be slow. The vocabulary is read and llguidance imported
when the first constraint comes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import cast

from corral.core.errors import ErrorInfo, Unsupported
from corral.core.ports.engines import Prepared
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import ConstraintMask, MaskFactory, OpenTokenizer, Tokenizer
from corral.core.requests.requests import Constraint, Request
from corral.core.stepping.loops import error_info
from corral.core.wording.pip_lines import pip_line

__all__ = ("Preparation", "Preparing")

_REQUIREMENT = "llguidance>=1.9,<2"
_MASK_THREADS = 4
_ENGINE_THREADS = 2
"""The two kinds do not wait for each other, and within a kind a slow request leaves threads for others."""
_NICENESS = 5


class Preparation:
    """A request on its way to the loop. `mask` and `prepared` are there when it is `done`, or `error` is."""

    __slots__ = ("_given_up", "_job", "error", "mask", "prepared", "request", "request_id")

    def __init__(self, request_id: int, request: Request) -> None:
        self.request_id = request_id
        self.request = request
        self.mask: ConstraintMask | None = None
        self.prepared: Prepared | None = None
        self.error: ErrorInfo | None = None
        self._job: Future[None] | None = None
        self._given_up = False

    def give_up(self) -> None:
        """What has not begun never does. Called in the loop's thread, like `drop`."""
        self._given_up = True
        if self._job is not None and self._job.cancel():
            self.drop()  # the engine's part may be there already, and the mask was still to come

    def drop(self) -> None:
        """Free what was prepared for nothing."""
        if self.prepared is not None:
            self.prepared.close()


class Preparing:
    """Threads that are started when they are first needed. `done` is called in them.

    What has not begun at `close`, or when it is given up, never does; what is ready after `close` is dropped.
    """

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer | None, done: Callable[[Preparation], None]) -> None:
        self._able = "constraints" in info.features
        self._tokenizer = tokenizer
        self._done = done
        self._mask_threads: ThreadPoolExecutor | None = None
        self._engine_threads: ThreadPoolExecutor | None = None
        self._factory: MaskFactory | None = None
        self._closed = False
        self._lock = threading.Lock()  # never held for long: the loop's thread takes it
        self._opening = threading.Lock()

    def begin(
        self,
        request_id: int,
        request: Request,
        constraint: Constraint | None,
        prepare: Callable[[], Prepared] | None,
    ) -> Preparation:
        """`done` will get what this returns, unless `close` comes first or it is given up before its turn."""
        preparation = Preparation(request_id, request)
        if prepare is not None:
            if self._engine_threads is None:
                self._engine_threads = _threads(_ENGINE_THREADS, "preparation")
            preparation._job = self._engine_threads.submit(self._prepare, preparation, prepare, constraint)
        elif constraint is not None:
            self._begin_mask(preparation, constraint)
        return preparation

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for threads in (self._mask_threads, self._engine_threads):
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)

    def _begin_mask(self, preparation: Preparation, constraint: Constraint) -> None:
        with self._lock:
            if self._closed:
                preparation.drop()
                return
            if self._mask_threads is None:
                self._mask_threads = _threads(_MASK_THREADS, "constraints")
            preparation._job = self._mask_threads.submit(self._make_mask, preparation, constraint)

    def _prepare(
        self, preparation: Preparation, prepare: Callable[[], Prepared], constraint: Constraint | None
    ) -> None:
        try:
            preparation.prepared = prepare()
        except BaseException as error:
            preparation.error = error_info(error)
        if constraint is None or preparation.error is not None or preparation._given_up:
            self._hand_in(preparation)
        else:
            self._begin_mask(preparation, constraint)

    def _make_mask(self, preparation: Preparation, constraint: Constraint) -> None:
        try:
            with self._opening:
                if self._factory is None:
                    self._factory = self._open()
            preparation.mask = self._factory(constraint)
        except BaseException as error:  # a panic of native code is no Exception
            preparation.error = error_info(error)
        self._hand_in(preparation)

    def _hand_in(self, preparation: Preparation) -> None:
        with self._lock:
            if not self._closed:
                self._done(preparation)
                return
        preparation.drop()

    def _open(self) -> MaskFactory:
        if not self._able or not hasattr(self._tokenizer, "vocabulary"):
            raise Unsupported("this model's engine does not support formats or grammars")
        try:
            from corral.adapters.constraints.masks import GrammarMasks
        except ImportError as error:
            raise Unsupported(f"formats and grammars need llguidance: {error}", pip_line(_REQUIREMENT)) from error
        return GrammarMasks(cast(OpenTokenizer, self._tokenizer).vocabulary())


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_yield_to_steps)


def _yield_to_steps() -> None:
    """On Linux this thread alone gives way to those that compute answers."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
