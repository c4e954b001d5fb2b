"""An answer in progress: `Generation`, which holds a lease on the model until it is closed or has ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import msgspec

from corral.core.models.model import StoredModel
from corral.core.requests.outputs import Delta, Finished, Output, Started
from corral.core.scheduling.leases import Lease

__all__ = ("Generation",)

_log = logging.getLogger(__name__)

_MOST_AHEAD_CHARS = 4 * 1024 * 1024


class Generation:
    """An answer in progress: an async iterator of outputs, ending with `Finished`, and an async context manager.

    Nothing runs before the first output is requested. Iterate it to its end or close it; `aclose` aborts the request
    within a step, returns the lease, and may be called twice. Use it from one task at a time.
    `unknown` are options that no engine knows: `Started` lists them with those that this engine ignores.
    """

    def __init__(
        self,
        record: StoredModel,
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
        self._outputs: AsyncGenerator[Output, None] | _Ahead = outputs
        self._resources = resources

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        try:
            output = await self._outputs.__anext__()
        except BaseException:  # it has ended or failed, or this task is cancelled: there are no more outputs
            await self.aclose()
            raise
        if isinstance(output, Started) and (ignored := (*self._ignored, *output.ignored_options)):
            _log.warning(
                "%s: the %s engine ignores these options: %s", self.record.name.short, self.engine, ", ".join(ignored)
            )
            output = msgspec.structs.replace(output, ignored_options=ignored)
        if isinstance(output, Started) and self._unknown:
            output = msgspec.structs.replace(output, ignored_options=(*self._unknown, *output.ignored_options))
        elif isinstance(output, Finished):
            self._log_usage(output)
            if output.dropped_messages or output.dropped_tokens:
                _log.warning(
                    "%s: the context was full: %d messages and %d tokens were left out",
                    self.record.name.short,
                    output.dropped_messages,
                    output.dropped_tokens,
                )
        return output

    def _log_usage(self, finished: Finished) -> None:
        usage = finished.usage
        _log.debug(
            "%s: queued %.3f s; %d prompt tokens (%d cached) in %.3f s; %d tokens in %.3f s",
            self.record.name.short,
            usage.queued_ns / 1e9,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.prefill_ns / 1e9,
            usage.generated_tokens,
            usage.decode_ns / 1e9,
        )

    def read_ahead(self) -> None:
        """Continue although the reader has stalled: outputs are kept for it, up to several million characters.

        The lease is returned as soon as the answer has ended, even if it has not been read yet. Does nothing while the
        reader is waiting for an output, since it has not stalled then.
        """
        # A stream that is read is not slowed down: its outputs do not pass through `_Ahead`.
        if not isinstance(self._outputs, _Ahead) and not getattr(self._outputs, "ag_running", True):
            self._outputs = _Ahead(self._outputs, self._resources)

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


class _Ahead:
    """Reads outputs in a separate task, and frees `resources` when they end."""

    def __init__(self, outputs: AsyncGenerator[Output, None], resources: AsyncExitStack) -> None:
        self._outputs = outputs
        self._resources = resources
        self._read: deque[Output] = deque()
        self._chars = 0
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._run())
        self._reading.add_done_callback(lambda done: self._changed.set())

    async def __anext__(self) -> Output:
        """The next output. Raises the error that the outputs ended with, if any."""
        while not self._read:
            if self._reading.done():
                await self._reading
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        output = self._read.popleft()
        self._chars -= _chars(output)
        self._changed.set()
        return output

    async def _run(self) -> None:
        try:
            async for output in self._outputs:
                self._read.append(output)
                self._chars += _chars(output)
                self._changed.set()
                while self._chars >= _MOST_AHEAD_CHARS:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            try:
                await self._outputs.aclose()
            finally:
                await self._resources.aclose()

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        if not self._reading.cancelled():
            self._reading.exception()  # the reader has seen it, or no longer wants it
        await self._outputs.aclose()  # in case the task was cancelled before it began


def _chars(output: Output) -> int:
    """Roughly how much memory an output takes; a log-probability counts like a short text."""
    if isinstance(output, Delta):
        pieces = sum([64 + len(piece.arguments) for piece in output.tool_call_pieces])
        return len(output.text) + len(output.thinking) + pieces + 64 * (1 + len(output.logprobs))
    return 64
