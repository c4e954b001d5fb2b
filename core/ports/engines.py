"""The engine ports: the author of an engine implements either a `StepEngine` or a `GeneratorEngine`.

Runners turn either into a `RunningModel`. An engine that works in the event loop (an upstream) is a `RunningModel`
already.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import Tokenizer, TokenMask
from corral.core.requests.outputs import EngineOutput
from corral.core.requests.requests import Request

__all__ = ("Engine", "GeneratorEngine", "IdlingEngine", "Prepared", "PreparingEngine", "StepEngine")


class Engine(Protocol):
    """What both forms of engines have in common. One thread owns an engine, except for its `tokenizer`."""

    @property
    def info(self) -> ModelInfo:
        """What it can do. A step engine may return another value after a step or an `idle`: the runner reports it."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    def close(self) -> None:
        """Free everything. May be called twice."""
        ...


class StepEngine(Engine, Protocol):
    """An engine that batches requests. One thread calls everything except `tokenizer`."""

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        """Accept a request; the next `step` begins to work on it. Ids are unique among unfinished requests. What was
        computed of a prompt may be reused for requests whose `caller.principal.prefix_scope` is the same.

        Raises an error of Corral (`PromptTooLong`, `Unsupported`, …) if the request cannot run at all.
        """
        ...

    def step(self) -> Sequence[tuple[int, EngineOutput]]:
        """Run one round over all requests, short enough that a cancelled request can wait for its end.

        A request may get several tokens in one step. Tokens after the end of an answer (a stop string, the limit) are
        dropped. Never raises because of one request: that request gets `EngineFailed`. After `EngineFinished` or
        `EngineFailed` its id is free again.
        """
        ...

    def has_unfinished_requests(self) -> bool:
        """If False, the runner sleeps until the next `add_request`."""
        ...

    def abort_request(self, request_id: int) -> None:
        """Drop the request; it yields no more output. An unknown id does nothing."""
        ...


class Prepared(Protocol):
    """A request that a `PreparingEngine` has prepared."""

    def close(self) -> None:
        """Free it, because the request was given up. Not called once `add_prepared` has accepted it."""
        ...


class PreparingEngine(StepEngine, Protocol):
    """A `StepEngine` that prepares requests in parallel to its steps if `add_request` would take long.

    This is optional: an engine without `needs_preparing` gets every request through `add_request`.
    """

    def needs_preparing(self, request: Request) -> bool:
        """Whether to call `prepare` and `add_prepared` instead of `add_request`.

        Quick; called in the engine's thread.
        """
        ...

    def prepare(self, request: Request) -> Prepared:
        """Do the slow part of accepting the request. Raises the same errors as `add_request`.

        Called in other threads, also in parallel. Long texts of the request have been replaced by token ids.
        """
        ...

    def add_prepared(self, request_id: int, prepared: Prepared, mask: TokenMask | None) -> None:
        """Accept the request that `prepared` was made from, as `add_request` does. Must be quick."""
        ...


class IdlingEngine(StepEngine, Protocol):
    """A `StepEngine` that has work to do while no request is unfinished. This is optional: others have no `idle`."""

    def idle(self) -> float | None:
        """Do a piece of background work, of 50 ms at most, since a request that arrives meanwhile waits for its end.

        Called in the engine's thread, only while no request is unfinished or being prepared. Return in how many
        seconds to be called again if no request comes: 0 if there is more to do; None if there is nothing to do before
        another request has ended.
        """
        ...


class GeneratorEngine(Engine, Protocol):
    """An engine that serves one request at a time: the simplest form."""

    def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput | None, None, None]:
        """Yield outputs as they are computed. The runner closes the generator to cancel the request.

        Yield None ("nothing yet") between the parts of long work, so that a cancelled request can end there.
        """
        ...
