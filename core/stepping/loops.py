"""An engine with a driver for each of its requests: the one loop body that every runner turns."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Protocol, cast

from corral.core.error_translation import no_unicode
from corral.core.errors import CorralError, ErrorInfo, OutOfMemory, PluginError
from corral.core.ports.engines import Engine, GeneratorEngine, Prepared, PreparingEngine, StepEngine
from corral.core.ports.tokens import RequestMask
from corral.core.requests.outputs import EngineEmbedded, EngineFailed, EngineFinished, EngineOutput, Output
from corral.core.requests.requests import Request
from corral.core.stepping.drivers import RequestDriver, driver_for

__all__ = ("EngineLoop", "GeneratorLoop", "Outcome", "StepLoop", "error_info")

_log = logging.getLogger(__name__)

Outcome = tuple[int, Output | ErrorInfo]
"""A request id and what it gets. An `ErrorInfo`, `Finished` or `Embedded` is its last."""


def error_info(error: BaseException) -> ErrorInfo:
    """An exception as data: ours as they are, foreign ones as an engine's failure, told by class and text."""
    if isinstance(error, CorralError):
        return error.info
    if isinstance(error, UnicodeEncodeError):  # a prompt with half a surrogate pair: no tokenizer can take it
        return no_unicode(error).info
    if isinstance(error, MemoryError):
        return ErrorInfo(code=OutOfMemory.code, message=f"out of memory: {error}" if str(error) else "out of memory")
    _log.debug("the engine raised an exception", exc_info=error)  # what an engine's author looks for
    return ErrorInfo(code="engine_error", message=f"the engine raised {type(error).__name__}: {error}")


class EngineLoop(Protocol):
    """What a runner turns. One thread calls everything but ``engine.tokenizer`` and `prepare`."""

    @property
    def engine(self) -> Engine: ...

    def needs_preparing(self, request: Request) -> bool:
        """Whether `prepare` must be called before `add`."""
        ...

    def prepare(self, request: Request) -> Prepared:
        """What `add` is to be given. The one method to call in other threads; see `PreparingEngine`."""
        ...

    def add(
        self,
        request_id: int,
        request: Request,
        mask: RequestMask | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        """Take a request in, with the mask that it needs and what its preparation gave.

        One that cannot run gets its error from the next `step`.
        """
        ...

    def abort(self, request_id: int) -> None:
        """Forget it; nothing of it follows. An unknown id does nothing."""
        ...

    def step(self) -> list[Outcome]:
        """One round. Raises only where the engine itself is broken; then no request of it can go on."""
        ...

    def unfinished(self) -> bool:
        """False: there is nothing to step for until the next `add`."""
        ...


class StepLoop:
    """The loop of a `StepEngine`."""

    def __init__(self, engine: StepEngine, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.engine = engine
        self._preparing = cast(PreparingEngine, engine) if hasattr(engine, "needs_preparing") else None
        self._clock_ns = clock_ns
        self._context_length = engine.info.context_length
        self._drivers: dict[int, RequestDriver] = {}
        self._refused: list[Outcome] = []

    def needs_preparing(self, request: Request) -> bool:
        return self._preparing is not None and self._preparing.needs_preparing(request)

    def prepare(self, request: Request) -> Prepared:
        assert self._preparing is not None
        return self._preparing.prepare(request)

    def add(
        self,
        request_id: int,
        request: Request,
        mask: RequestMask | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        try:
            driver = driver_for(request, self._context_length, self._clock_ns, mask)
            if prepared is None or self._preparing is None:
                self.engine.add_request(request_id, request, driver.mask)
            else:
                self._preparing.add_prepared(request_id, prepared, driver.mask)
        except Exception as error:
            if prepared is not None:
                prepared.close()
            self._refused.append((request_id, error_info(error)))
        else:
            self._drivers[request_id] = driver

    def abort(self, request_id: int) -> None:
        if self._drivers.pop(request_id, None) is not None:
            self.engine.abort_request(request_id)
        else:
            self._refused = [outcome for outcome in self._refused if outcome[0] != request_id]

    def unfinished(self) -> bool:
        return bool(self._drivers or self._refused)

    def step(self) -> list[Outcome]:
        outcomes, self._refused = self._refused, []
        drivers = self._drivers
        if not drivers:
            return outcomes
        for request_id, output in self.engine.step():
            driver = drivers.get(request_id)
            if driver is None:  # ended by us earlier in this very step
                continue
            if isinstance(output, EngineFailed):
                del drivers[request_id]
                outcomes.append((request_id, output.error))
                continue
            try:
                made, done = driver.feed(output)
            except PluginError as error:
                self.abort(request_id)
                outcomes.append((request_id, error.info))
                continue
            for item in made:
                outcomes.append((request_id, item))
            if done:
                del drivers[request_id]
                if not isinstance(output, EngineFinished | EngineEmbedded):
                    self.engine.abort_request(request_id)
        if drivers and not self.engine.has_unfinished_requests():
            lost = ErrorInfo(code=PluginError.code, message="the engine ended a request without an answer")
            outcomes.extend((request_id, lost) for request_id in drivers)
            drivers.clear()
        return outcomes


class GeneratorLoop:
    """The loop of a `GeneratorEngine`: one request at a time, in the order they came, one output a step.

    A generator that returns without `EngineFinished` has ended with ``stop``.
    """

    def __init__(self, engine: GeneratorEngine, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.engine = engine
        self._clock_ns = clock_ns
        self._waiting: deque[tuple[int, Request, RequestMask | None]] = deque()
        self._running: tuple[int, RequestDriver, Generator[EngineOutput | None, None, None]] | None = None

    def needs_preparing(self, request: Request) -> bool:
        return False

    def prepare(self, request: Request) -> Prepared:
        raise NotImplementedError("an engine of this form prepares nothing")

    def add(
        self,
        request_id: int,
        request: Request,
        mask: RequestMask | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self._waiting.append((request_id, request, mask))

    def abort(self, request_id: int) -> None:
        if self._running is not None and self._running[0] == request_id:
            self._end()
        else:
            self._waiting = deque(item for item in self._waiting if item[0] != request_id)

    def unfinished(self) -> bool:
        return self._running is not None or bool(self._waiting)

    def step(self) -> list[Outcome]:
        if self._running is None:
            if not self._waiting:
                return []
            request_id, request, mask = self._waiting.popleft()
            try:
                driver = driver_for(request, self.engine.info.context_length, self._clock_ns, mask)
                self._running = (request_id, driver, self.engine.run(request, driver.mask))
            except Exception as error:
                return [(request_id, error_info(error))]
        request_id, driver, generator = self._running
        try:
            output = next(generator, EngineFinished(reason="stop"))
            if output is None:
                return []
            if isinstance(output, EngineFailed):
                self._end()
                return [(request_id, output.error)]
            made, done = driver.feed(output)
            if done:
                self._end()
        except Exception as error:
            self._end()
            return [(request_id, error_info(error))]
        return [(request_id, item) for item in made]

    def _end(self) -> None:
        if self._running is not None:
            generator = self._running[2]
            self._running = None
            with contextlib.suppress(Exception):  # its clean-up failed; the request is over all the same
                generator.close()
