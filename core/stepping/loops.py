"""Connects an engine with the drivers of its requests: the loop body that every runner uses."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import cast

from corral.core.error_translation import no_unicode
from corral.core.errors import CorralError, ErrorInfo, OutOfMemory, PluginError
from corral.core.ports.engines import Engine, GeneratorEngine, IdlingEngine, Prepared, PreparingEngine, StepEngine
from corral.core.ports.tokens import RequestMask
from corral.core.requests.outputs import (
    EngineEmbedded,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRanked,
    Output,
)
from corral.core.requests.requests import Request
from corral.core.stepping.answer_driver import RequestDriver, driver_for
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("EngineLoop", "GeneratorLoop", "Outcome", "StepLoop", "error_info")

_log = logging.getLogger(__name__)

Outcome = tuple[int, Output | ErrorInfo]
"""A request id and what the request gets. An `ErrorInfo`, `Finished`, `Embedded` or `Ranked` is the last."""


def error_info(error: BaseException) -> ErrorInfo:
    """Convert an exception to data.

    Corral's errors stay as they are; others become an engine error with class and text.
    """
    if isinstance(error, CorralError):
        return error.info
    if isinstance(error, UnicodeEncodeError):  # half a surrogate pair in a prompt: no tokenizer can handle it
        return no_unicode(error).info
    if isinstance(error, MemoryError):
        return ErrorInfo(code=OutOfMemory.code, message=f"out of memory: {error}" if str(error) else "out of memory")
    _log.debug("the engine raised an exception", exc_info=error)  # for the author of the engine
    text = str(error)  # may quote a prompt, as a KeyError does
    return ErrorInfo(code="engine_error", message=f"the engine raised {type(error).__name__}: {text}", quoted=text)


class EngineLoop(ABC):
    """What a runner drives. One thread calls everything except ``engine.tokenizer`` and `prepare`."""

    engine: Engine

    def __init__(self, engine: Engine, clock_ns: Callable[[], int]) -> None:
        self.engine = engine
        self._clock_ns = clock_ns
        self._context_length = engine.info.context_length
        self._refused: list[Outcome] = []

    def needs_preparing(self, request: Request) -> bool:
        """Whether `prepare` must be called before `add`."""
        return False

    def prepare(self, request: Request) -> Prepared:
        """Prepare a request for `add`. The only method that other threads may call; see `PreparingEngine`."""
        raise NotImplementedError("this engine prepares nothing")

    def add(
        self,
        request_id: int,
        request: Request,
        mask: RequestMask | None = None,
        prepared: Prepared | None = None,
        arrived_ns: int | None = None,
    ) -> None:
        """Accept a request, with the mask it needs and the result of `prepare`.

        `arrived_ns` is when it arrived; None means now. If the request cannot run, the next `step` reports its error.
        """
        try:
            driver = driver_for(
                request,
                context_length=self._context_length,
                clock_ns=self._clock_ns,
                mask=mask,
                arrived_ns=arrived_ns,
            )
            self._take(request_id, request, driver, prepared)
        except Exception as error:
            if prepared is not None:
                prepared.close()
            self._refused.append((request_id, error_info(error)))

    def abort(self, request_id: int) -> None:
        """Drop the request; it yields no more outcomes. An unknown id does nothing."""
        self._refused = [outcome for outcome in self._refused if outcome[0] != request_id]
        self._drop(request_id)

    def unfinished(self) -> bool:
        """False if there is nothing to step for until the next `add`."""
        return bool(self._refused) or self._busy()

    def step(self) -> list[Outcome]:
        """One round. Raises only if the engine itself is broken; then none of its requests can go on."""
        outcomes, self._refused = self._refused, []
        self._step(outcomes)
        return outcomes

    def idle(self) -> float | None:
        """Call while nothing is unfinished. Return after how many seconds to call it again; None: after a request.

        Never raises: what an engine's `idle` raises is logged.
        """
        return None

    @abstractmethod
    def _take(self, request_id: int, request: Request, driver: RequestDriver, prepared: Prepared | None) -> None:
        """Raises an error if the request cannot run."""

    @abstractmethod
    def _drop(self, request_id: int) -> None: ...

    @abstractmethod
    def _busy(self) -> bool: ...

    @abstractmethod
    def _step(self, outcomes: list[Outcome]) -> None: ...


class StepLoop(EngineLoop):
    """The loop of a `StepEngine`."""

    def __init__(self, engine: StepEngine, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        super().__init__(engine, clock_ns)
        self._engine = engine
        self._preparing = cast(PreparingEngine, engine) if hasattr(engine, "needs_preparing") else None
        self._idling = cast(IdlingEngine, engine) if hasattr(engine, "idle") else None
        self._drivers: dict[int, RequestDriver] = {}

    def needs_preparing(self, request: Request) -> bool:
        return self._preparing is not None and self._preparing.needs_preparing(request)

    def prepare(self, request: Request) -> Prepared:
        return super().prepare(request) if self._preparing is None else self._preparing.prepare(request)

    def idle(self) -> float | None:
        if self._idling is None:
            return None
        try:
            return self._idling.idle()
        except Exception:  # no request is concerned: the next one finds out whether the engine still works
            _log.exception("the engine failed while it was idle")
            return None

    def _take(self, request_id: int, request: Request, driver: RequestDriver, prepared: Prepared | None) -> None:
        if prepared is None or self._preparing is None:
            self._engine.add_request(request_id, request, driver.mask)
        else:
            self._preparing.add_prepared(request_id, prepared, driver.mask)
        self._drivers[request_id] = driver

    def _drop(self, request_id: int) -> None:
        if self._drivers.pop(request_id, None) is not None:
            self._engine.abort_request(request_id)

    def _busy(self) -> bool:
        return bool(self._drivers)

    def _step(self, outcomes: list[Outcome]) -> None:
        drivers = self._drivers
        if not drivers:
            return
        for request_id, output in self._engine.step():
            driver = drivers.get(request_id)
            if driver is None:  # we ended it earlier in this step
                continue
            if isinstance(output, EngineFailed):
                del drivers[request_id]
                outcomes.append((request_id, output.error))
                continue
            try:
                made, done = driver.feed(output)
            except PluginError as error:
                self._drop(request_id)
                outcomes.append((request_id, error.info))
                continue
            for item in made:
                outcomes.append((request_id, item))
            if done:
                del drivers[request_id]
                if not isinstance(output, EngineFinished | EngineEmbedded | EngineRanked):
                    self._engine.abort_request(request_id)
        if drivers and not self._engine.has_unfinished_requests():
            lost = ErrorInfo(code=PluginError.code, message="the engine ended a request without an answer")
            outcomes.extend((request_id, lost) for request_id in drivers)
            drivers.clear()


class GeneratorLoop(EngineLoop):
    """The loop of a `GeneratorEngine`: one request at a time, those who ask in turns, one output per step.

    If a generator returns without `EngineFinished`, the reason is ``stop``.
    """

    def __init__(self, engine: GeneratorEngine, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        super().__init__(engine, clock_ns)
        self._engine = engine
        self._waiting: FairQueue[tuple[int, Request, RequestDriver]] = FairQueue(
            lambda item: item[1].caller.principal.name
        )
        self._running: tuple[int, RequestDriver, Generator[EngineOutput | None, None, None]] | None = None

    def _take(self, request_id: int, request: Request, driver: RequestDriver, prepared: Prepared | None) -> None:
        self._waiting.append((request_id, request, driver))

    def _drop(self, request_id: int) -> None:
        if self._running is not None and self._running[0] == request_id:
            self._end()
        else:
            for item in self._waiting:
                if item[0] == request_id:
                    self._waiting.remove(item)
                    return

    def _busy(self) -> bool:
        return self._running is not None or bool(self._waiting)

    def _step(self, outcomes: list[Outcome]) -> None:
        if self._running is None and not self._waiting:
            return
        request_id = self._running[0] if self._running is not None else self._waiting.first()[0]
        try:
            outcomes.extend((request_id, item) for item in self._next_outputs())
        except Exception as error:
            self._end()
            outcomes.append((request_id, error_info(error)))

    def _next_outputs(self) -> list[Output | ErrorInfo]:
        """What the running request gets next. If none is running, the first waiting one begins."""
        if self._running is None:
            request_id, request, driver = self._waiting.popleft()
            driver.begin()
            self._running = (request_id, driver, self._engine.run(request, driver.mask))
        _, driver, generator = self._running
        output = next(generator, EngineFinished(reason="stop"))
        if output is None:
            return []
        if isinstance(output, EngineFailed):
            self._end()
            return [output.error]
        made, done = driver.feed(output)
        if done:
            self._end()
        return list[Output | ErrorInfo](made)

    def _end(self) -> None:
        if self._running is not None:
            generator = self._running[2]
            self._running = None
            with contextlib.suppress(Exception):  # its clean-up failed, but the request is over anyway
                generator.close()
