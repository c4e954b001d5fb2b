"""What the library answers: whole results, chunks, and the streams that chunks come in."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from corral.api.library.portal import FORKED
from corral.core.generation.answers import Generation
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, FinishReason, Output, Started, TokenLogprob, Usage
from corral.core.values import Value

__all__ = (
    "Answer",
    "AnswerMessage",
    "AsyncStream",
    "ChatResult",
    "Chunk",
    "Embeddings",
    "GenerateResult",
    "ModelDetails",
    "chat_result",
    "generate_result",
)


class Chunk(Value, frozen=True, kw_only=True):
    """A piece of an answer: visible text, thinking, or complete tool calls."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Answer(Value, frozen=True, kw_only=True):
    """What all answers say. `load_ns` is how long the model had to be waited for; `total_ns` includes it.

    `ignored_options` are options of the request that the engine has no use for.
    """

    model: str
    engine: str
    finish_reason: FinishReason
    usage: Usage
    load_ns: int
    total_ns: int
    logprobs: tuple[TokenLogprob, ...] = ()
    ignored_options: tuple[str, ...] = ()


class AnswerMessage(dict[str, Any]):
    """A model's turn as a message of a conversation: a plain dict, so that it goes into a list of messages, and into
    JSON, like those that a caller writes. Keys without a value are left out.
    """

    @property
    def role(self) -> str:
        return str(self["role"])

    @property
    def content(self) -> str:
        return str(self["content"])

    @property
    def thinking(self) -> str | None:
        thinking: str | None = self.get("thinking")
        return thinking

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return msgspec.convert(self.get("tool_calls", ()), tuple[ToolCall, ...])


class ChatResult(Answer, frozen=True, kw_only=True):
    """The answer to a chat; `message` can be appended to the conversation as it is."""

    message: AnswerMessage

    @property
    def text(self) -> str:
        return self.message.content


class GenerateResult(Answer, frozen=True, kw_only=True):
    """The answer to a prompt."""

    text: str


class Embeddings(Value, frozen=True, kw_only=True):
    """One vector per input, in order. `ignored_options` are options of the request without effect."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    load_ns: int
    total_ns: int
    ignored_options: tuple[str, ...] = ()


class ModelDetails(Value, frozen=True, kw_only=True):
    """A model as its manifest and its weights describe it. `metadata` is None where the weights cannot be read."""

    record: StoredModel
    metadata: ModelMetadata | None
    capabilities: tuple[str, ...]


A = TypeVar("A", bound=Answer)


def chat_result(chunks: Sequence[Chunk], common: Mapping[str, Any]) -> ChatResult:
    """The chunks of a chat, joined."""
    message = AnswerMessage(role="assistant", content="".join(chunk.text for chunk in chunks))
    if thinking := "".join(chunk.thinking for chunk in chunks):
        message["thinking"] = thinking
    if calls := [call for chunk in chunks for call in chunk.tool_calls]:
        message["tool_calls"] = [msgspec.to_builtins(msgspec.structs.asdict(call)) for call in calls]
    return ChatResult(message=message, **common)


def generate_result(chunks: Sequence[Chunk], common: Mapping[str, Any]) -> GenerateResult:
    """The chunks of a plain answer, joined."""
    return GenerateResult(text="".join(chunk.text for chunk in chunks), **common)


class AsyncStream(Generic[A]):
    """An answer as it comes: an async iterator of chunks, and an async context manager.

    Leaving it early, by `aclose`, by the context or by just forgetting the stream, cancels the request within a step.
    For one task at a time, on the event loop that it was made on.
    """

    def __init__(
        self,
        generation: Generation,
        conclude: Callable[[Sequence[Chunk], Mapping[str, Any]], A],
        model: str,
        started_ns: int,
    ) -> None:
        self._generation = generation
        self._conclude = conclude
        self._model = model
        self._started_ns = started_ns
        self._chunks: list[Chunk] = []
        self._ignored_options: tuple[str, ...] = ()
        self._result: A | None = None
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._process_id = os.getpid()
        self._forgotten = weakref.finalize(self, _abort, generation, self._loop, self._process_id)
        self._forgotten.atexit = False

    @property
    def result(self) -> A:
        """The whole answer. Raises `RuntimeError` before the last chunk has been read."""
        if self._result is None:
            raise RuntimeError("the answer is not complete: read the stream to its end first")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        self._require_place()
        if self._reading:
            raise RuntimeError("this stream is already being read: only one task or thread can read it at a time")
        self._reading = True
        try:
            async for output in self._generation:
                chunk = self._take(output)
                if chunk is not None:
                    return chunk
        except BaseException:
            self._forgotten.detach()  # a generation that failed has closed itself
            raise
        finally:
            self._reading = False
        self._forgotten.detach()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels the request if it still runs. Twice is fine; in a forked child it does nothing."""
        if os.getpid() != self._process_id:
            return
        self._require_place()
        self._forgotten.detach()
        await self._generation.aclose()

    async def complete(self) -> A:
        """Reads to the end and answers the result."""
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
                self._result = self._conclude(self._chunks, self._common(output))
            return None
        self._chunks.append(chunk)
        # A delta may hold a token whose text is kept back; there is nothing to show yet.
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
            "logprobs": tuple(logprob for chunk in self._chunks for logprob in chunk.logprobs),
        }


def _abort(generation: Generation, loop: asyncio.AbstractEventLoop, process_id: int) -> None:
    """The garbage collector may call this on any thread. A forked child must not wake its parent's loop."""
    if os.getpid() != process_id:
        return
    closing = generation.aclose()
    try:
        asyncio.run_coroutine_threadsafe(closing, loop)
    except RuntimeError:  # the loop is closed already, and every request of it has ended
        closing.close()
