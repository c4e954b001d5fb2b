"""The engine ports: what the author of an engine implements, a `StepEngine` or a `GeneratorEngine`.

Runners turn either into a `RunningModel`. An engine that works in the event loop (an upstream) is one directly.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import Tokenizer, TokenMask
from corral.core.requests.outputs import EngineOutput
from corral.core.requests.requests import Request

__all__ = ("Engine", "GeneratorEngine", "Prepared", "PreparingEngine", "StepEngine")


class Engine(Protocol):
    """What both engine forms share. One thread owns an engine, except its `tokenizer`."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    def close(self) -> None:
        """Free everything. Twice is fine."""
        ...


class StepEngine(Engine, Protocol):
    """An engine that batches. One thread calls everything but `tokenizer`."""

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        """Take a request in; it is worked on from the next `step`. Ids are unique among unfinished requests.

        Raises errors of ours for a request that cannot run at all (`PromptTooLong`, `Unsupported`, …).
        """
        ...

    def step(self) -> Sequence[tuple[int, EngineOutput]]:
        """One bounded round over all requests, short enough that cancelling may wait for its end.

        A request may get several tokens in one step. What follows the token that ended it (a stop string, the limit)
        is dropped. Never raises because of one request: that request gets `EngineFailed`. After `EngineFinished` or
        `EngineFailed` its id is free again.
        """
        ...

    def has_unfinished_requests(self) -> bool:
        """False: the runner sleeps until the next `add_request`."""
        ...

    def abort_request(self, request_id: int) -> None:
        """Forget it; no output of it follows. An unknown id does nothing."""
        ...


class Prepared(Protocol):
    """What a `PreparingEngine` made of a request before its turn."""

    def close(self) -> None:
        """Free it: nobody wants it any longer. Not called once the engine has taken it."""
        ...


class PreparingEngine(StepEngine, Protocol):
    """A `StepEngine` that prepares some requests in parallel to its steps: those that `add_request` takes long for.

    Optional: an engine without `needs_preparing` gets every request by `add_request`.
    """

    def needs_preparing(self, request: Request) -> bool:
        """Whether `prepare` and `add_prepared` take the place of `add_request`. Quick; in the engine's thread."""
        ...

    def prepare(self, request: Request) -> Prepared:
        """What `add_prepared` needs to be quick. Raises what `add_request` would.

        Called in other threads, several at a time. A long text of the request has become token ids by then.
        """
        ...

    def add_prepared(self, request_id: int, prepared: Prepared, mask: TokenMask | None) -> None:
        """As `add_request`, for the request that `prepared` was made from. Nothing in it takes long."""
        ...


class GeneratorEngine(Engine, Protocol):
    """An engine that serves one request at a time: the smallest thing to write."""

    def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput | None, None, None]:
        """Outputs as they come; the runner closes the generator to cancel.

        None is "nothing yet": yielded between the parts of long work, so that a cancelled request ends there.
        """
        ...
