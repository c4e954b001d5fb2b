"""An answer under way: `Generation`, which holds a lease of the model until it is closed or has run to its end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self

import msgspec

from corral.core.models import ModelRecord
from corral.core.outputs import Output, Started
from corral.core.ports.inference import RunningModel

__all__ = ("Generation", "Lease")

_log = logging.getLogger(__name__)


class Lease(Protocol):
    """A loaded model, ours to use (see `core.scheduling`)."""

    @property
    def model(self) -> RunningModel: ...
    @property
    def load_ns(self) -> int: ...
    @property
    def engine(self) -> str: ...
    @property
    def ignored_options(self) -> tuple[str, ...]: ...


class Generation:
    """An answer under way: an async iterator of outputs, ending with `Finished`, and an async context manager.

    Nothing runs before the first output is asked for. Whoever got it iterates it to its end or closes it;
    `aclose` aborts the request within a step, gives the model back, and may be called twice. One task at a time.
    `unknown` are options that no engine knows: `Started` names them beside those that this engine ignores.
    """

    def __init__(
        self,
        record: ModelRecord,
        lease: Lease,
        outputs: AsyncGenerator[Output, None],
        resources: AsyncExitStack,
        unknown: tuple[str, ...] = (),
    ) -> None:
        self.record = record
        self.load_ns = lease.load_ns
        self.engine = lease.engine
        self._ignored = lease.ignored_options
        self._unknown = unknown
        self._outputs = outputs
        self._resources = resources

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        try:
            output = await self._outputs.__anext__()
        except BaseException:  # its end, its failure, or our own task cancelled: nothing more will come
            await self.aclose()
            raise
        if isinstance(output, Started) and (ignored := (*self._ignored, *output.ignored_options)):
            _log.warning("%s: the %s engine ignores: %s", self.record.name.short, self.engine, ", ".join(ignored))
            output = msgspec.structs.replace(output, ignored_options=ignored)
        if isinstance(output, Started) and self._unknown:
            output = msgspec.structs.replace(output, ignored_options=(*self._unknown, *output.ignored_options))
        return output

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        try:
            await self._outputs.aclose()
        finally:
            await self._resources.aclose()
