"""A chat whose tools are called: one generation after another, until the model answers without a call."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import msgspec

from corral.api.library.functions import FunctionTool
from corral.api.library.results import ToolResult
from corral.core.generation.answers import Generation
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message, ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Usage
from corral.core.requests.tool_choice import ANY_CHOICE, ToolChoice
from corral.core.wording.clipping import clipped_line

__all__ = ("PendingCalls", "ToolRounds", "made_aside", "made_here")

_log = logging.getLogger(__name__)


class PendingCalls(Output, frozen=True, kw_only=True):
    """Calls that have to be made, and answered with `ToolRounds.answer`, before the next output is requested."""

    calls: tuple[ToolCall, ...]


class ToolRounds:
    """Like a `Generation`: an async iterator of the outputs of all rounds, with one `Finished` at the end.

    After `max_rounds` rounds of calls, the model has to answer without one. A choice of tools holds for the first round
    alone: a call that is required again and again would never end. A call of a tool without a function ends the chat.
    """

    def __init__(
        self,
        start: Callable[[ChatCall], Awaitable[Generation]],
        call: ChatCall,
        functions: Mapping[str, FunctionTool],
        max_rounds: int,
    ) -> None:
        self._start = start
        self._call = call
        self._functions = functions
        self._left = max_rounds
        self._generation: Generation | None = None
        self._deltas: list[Delta] = []
        self._calls: tuple[ToolCall, ...] = ()
        self._usage = Usage()
        self.engine = ""
        self.load_ns = 0

    async def begin(self) -> None:
        """Loads the model and starts the first round. Raises what `InferenceService.chat` raises."""
        if not self._left:
            self._call = msgspec.structs.replace(self._call, tool_choice=ToolChoice(mode="none"))
        self._generation = await self._start(self._call)
        self.engine, self.load_ns = self._generation.engine, self.load_ns + self._generation.load_ns

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        if self._calls:
            raise RuntimeError("the calls have to be answered first")
        if self._generation is None:
            await self.begin()
        assert self._generation is not None
        output = await anext(self._generation)
        if isinstance(output, Delta):
            self._deltas.append(output)
        elif isinstance(output, Finished):
            return await self._finished(output)
        return output

    def answer(self, results: Sequence[ToolResult]) -> None:
        """The results of the pending calls, in their order; the next round continues with them."""
        said = self._deltas
        thinking = "".join([delta.thinking for delta in said])
        content = "".join([delta.text for delta in said])
        asked = Message(role="assistant", content=content, thinking=thinking or None, tool_calls=self._calls)
        answers = [
            Message(role="tool", content=one.text, tool_name=one.call.name, tool_call_id=one.call.id) for one in results
        ]
        messages = (*self._call.messages, asked, *answers)
        self._call = msgspec.structs.replace(self._call, messages=messages, tool_choice=ANY_CHOICE)
        self._calls, self._deltas = (), []

    def function(self, call: ToolCall) -> FunctionTool:
        """The function of a pending call."""
        return self._functions[call.name]

    async def aclose(self) -> None:
        if self._generation is not None:
            await self._generation.aclose()

    async def _finished(self, finished: Finished) -> Output:
        self._usage = _sum(self._usage, finished.usage)
        calls = tuple(call for delta in self._deltas for call in delta.tool_calls)
        if not calls or not self._left or any(call.name not in self._functions for call in calls):
            return msgspec.structs.replace(finished, usage=self._usage)
        await self.aclose()  # the model is free while the functions run
        self._generation, self._calls = None, calls
        self._left -= 1
        return PendingCalls(calls=calls)


def made_here(tool: FunctionTool, call: ToolCall, wait: Callable[[Awaitable[Any]], Any]) -> ToolResult:
    """Makes a call in this thread. `wait` awaits what an async function returns."""
    try:
        value = tool.function(**tool.arguments(call.arguments))
        return _result(call, wait(value) if inspect.isawaitable(value) else value)
    except Exception as error:  # the caller's function may raise anything: the model reads it, and may try again
        return _failed(call, error)


async def made_aside(tool: FunctionTool, call: ToolCall) -> ToolResult:
    """Makes a call without holding up the event loop: a function that is not async runs in another thread."""
    try:
        arguments = tool.arguments(call.arguments)
        if inspect.iscoroutinefunction(tool.function):
            value = await tool.function(**arguments)
        else:
            value = await asyncio.to_thread(tool.function, **arguments)
            value = await value if inspect.isawaitable(value) else value
        return _result(call, value)
    except Exception as error:
        return _failed(call, error)


def _result(call: ToolCall, value: Any) -> ToolResult:
    """A text as it is, everything else as JSON, or as Python writes it if JSON has no form for it."""
    if isinstance(value, str):
        return ToolResult(call=call, text=value)
    dumped = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    try:
        return ToolResult(call=call, text=msgspec.json.encode(dumped).decode())
    except (TypeError, ValueError, RecursionError):
        return ToolResult(call=call, text=str(value))


def _failed(call: ToolCall, error: Exception) -> ToolResult:
    text = f"{type(error).__name__}: {error}"
    _log.warning("the tool %s failed: %s", call.name, clipped_line(text))
    return ToolResult(call=call, text=f"error: {text}", failed=True)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__})
