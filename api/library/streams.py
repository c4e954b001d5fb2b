"""The streams in which chunks of an answer arrive: `AsyncStream`, and `Stream` for blocking code."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from corral.api.library.functions import FunctionTool
from corral.api.library.portal import FORKED, Portal
from corral.api.library.results import Answer, AnswerMessage, Chunk, ToolResult, answer_message, result_message
from corral.api.library.tool_rounds import PendingCalls, ToolRounds, made_aside, made_here
from corral.core.generation.answers import Generation
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started

__all__ = ("AsyncStream", "Stream")

A = TypeVar("A", bound=Answer)


class AsyncStream(Generic[A]):
    """An answer as it is generated: an async iterator of chunks, and an async context manager.

    Leaving it early (by `aclose`, by leaving the context, or by dropping the stream) cancels the request within a step.
    Only one task at a time may use it, on the event loop that created it.
    """

    def __init__(
        self,
        generation: Generation | ToolRounds,
        conclude: Callable[[Sequence[Chunk], Finished, Mapping[str, Any]], A],
        model: str,
        started_ns: int,
    ) -> None:
        self._generation = generation
        self._conclude = conclude
        self._model = model
        self._started_ns = started_ns
        self._chunks: list[Chunk] = []
        self._earlier: list[AnswerMessage] = []
        self._ignored_options: tuple[str, ...] = ()
        self._result: A | None = None
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._process_id = os.getpid()
        self._forgotten = weakref.finalize(self, _abort, generation, self._loop, self._process_id)
        self._forgotten.atexit = False

    @property
    def result(self) -> A:
        """The complete answer. Raises `RuntimeError` until the last chunk has been read."""
        if self._result is None:
            raise RuntimeError("the answer is not complete: read the stream to its end first")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        event = await self.event()
        if isinstance(event, PendingCalls):
            made = [made_aside(self.function(call), call) for call in event.calls]
            return self.answered(await asyncio.gather(*made))
        if event is None:
            raise StopAsyncIteration
        return event

    async def event(self) -> Chunk | PendingCalls | None:
        """The next chunk; or calls, whose results have to be given to `answered`; or None at the end."""
        self._require_place()
        if self._reading:
            raise RuntimeError("this stream is already being read: only one task or thread can read it at a time")
        self._reading = True
        try:
            async for output in self._generation:
                if isinstance(output, PendingCalls):
                    return output
                chunk = self._take(output)
                if chunk is not None:
                    return chunk
        except BaseException:
            self._forgotten.detach()  # a failed generation has closed itself
            raise
        finally:
            self._reading = False
        self._forgotten.detach()
        return None

    def answered(self, results: Sequence[ToolResult]) -> Chunk:
        """Goes on with the results of the pending calls, and returns the chunk that tells of them."""
        assert isinstance(self._generation, ToolRounds)
        self._generation.answer(results)
        self._earlier += [answer_message(self._chunks), *map(result_message, results)]
        self._chunks = []
        return Chunk(tool_results=tuple(results))

    def function(self, call: ToolCall) -> FunctionTool:
        """The function of a pending call."""
        assert isinstance(self._generation, ToolRounds)
        return self._generation.function(call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels the request if it is still running. May be called twice; does nothing in a forked child."""
        if os.getpid() != self._process_id:
            return
        self._require_place()
        self._forgotten.detach()
        await self._generation.aclose()

    async def complete(self) -> A:
        """Reads to the end and returns the result."""
        async with self:
            async for _ in self:
                pass
        return self.result

    def _require_place(self) -> None:
        if os.getpid() != self._process_id:
            raise RuntimeError(FORKED.format(name="stream"))
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this stream belongs to the event loop that created it, and this is a different one")

    def _take(self, output: Output) -> Chunk | None:
        if isinstance(output, Delta):
            chunk = Chunk(
                text=output.text,
                thinking=output.thinking,
                tool_calls=output.tool_calls,
                logprobs=output.logprobs,
            )
        else:
            if isinstance(output, Started):
                self._ignored_options = output.ignored_options
            elif isinstance(output, Finished):
                self._result = self._conclude(self._chunks, output, self._common(output))
                if self._earlier:
                    self._result = msgspec.structs.replace(self._result, earlier=tuple(self._earlier))
            return None
        self._chunks.append(chunk)
        # A delta may hold a token whose text is held back, so that there is nothing to show yet.
        return chunk if chunk != Chunk() else None

    def _common(self, finished: Finished) -> dict[str, Any]:
        return {
            "model": self._model,
            "engine": self._generation.engine,
            "finish_reason": finished.reason,
            "usage": finished.usage,
            "load_ns": self._generation.load_ns,
            "total_ns": time.perf_counter_ns() - self._started_ns,
            "ignored_options": self._ignored_options,
            "format_valid": finished.format_valid,
            "format_problem": finished.format_problem,
            "dropped_messages": finished.dropped_messages,
            "dropped_tokens": finished.dropped_tokens,
            "warnings": finished.warnings,
            "logprobs": tuple(logprob for chunk in self._chunks for logprob in chunk.logprobs),
        }


class Stream(Generic[A]):
    """An answer as it is generated, for blocking code: an iterator of chunks, and a context manager.

    Leaving it early (by `close`, by leaving the context, or by dropping the stream) cancels the request within a step.
    Functions that the model calls run in the thread that reads the stream.
    """

    def __init__(self, stream: AsyncStream[A], portal: Portal) -> None:
        self._stream = stream
        self._portal = portal

    @property
    def result(self) -> A:
        """The complete answer. Raises `RuntimeError` until the last chunk has been read."""
        return self._stream.result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        event = self._portal.call(self._stream.event)
        if isinstance(event, PendingCalls):
            results = [made_here(self._stream.function(call), call, self._wait) for call in event.calls]
            return self._portal.call(lambda: self._answered(results))
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the request if it is still running. Does nothing if it has ended, or if its `Corral` is closed."""
        if not (self._portal.forked or self._portal.closed):
            self._portal.call(self._stream.aclose)

    def complete(self) -> A:
        """Reads to the end and returns the result."""
        with self:
            for _ in self:
                pass
        return self.result

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        return self._portal.call(lambda: awaitable)

    async def _answered(self, results: Sequence[ToolResult]) -> Chunk:
        return self._stream.answered(results)


def _abort(generation: Generation | ToolRounds, loop: asyncio.AbstractEventLoop, process_id: int) -> None:
    """Cancels a request whose stream was dropped: on any thread. A forked child must not wake its parent's loop."""
    if os.getpid() != process_id:
        return
    closing = generation.aclose()
    try:
        asyncio.run_coroutine_threadsafe(closing, loop)
    except RuntimeError:  # the loop is already closed, and all its requests have ended
        closing.close()
