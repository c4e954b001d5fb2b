"""The use case of answers from the web: the model calls for searches and pages, and goes on with what they say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from corral.core.generation.answers import Generation
from corral.core.generation.web_fetch import WebFetch, with_web_fetch
from corral.core.generation.web_search import WebSearch, with_web_search
from corral.core.generation.web_tools import Made, PageReader, WebSearcher, WebTool
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message, ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, ToolCallPiece, Usage
from corral.core.requests.tool_choice import ANY_CHOICE
from corral.core.web.access import WebAccess

__all__ = ("Chats", "SearchingAnswer", "searching_chat")


class Chats(Protocol):
    """What is asked of the `InferenceService`."""

    async def chat(self, call: ChatCall) -> Generation: ...


async def searching_chat(
    chats: Chats, web: WebAccess, call: ChatCall, search: WebSearch | None, fetch: WebFetch | None = None
) -> SearchingAnswer:
    """Answers a chat whose model may search the web, read its pages, or both. What the first round of it raises is
    raised here, at once.

    Raises `WebDisabled` if the settings do not allow it, before anything runs, `InvalidRequest` if the call has a tool
    named ``web_search`` or ``web_fetch`` itself, and what `InferenceService.chat` raises.

    A dialect calls it in place of `InferenceService.chat`, gives the result to its `AnswerResponse`, and translates
    what comes out. Beside `Started` (once), `Delta`s and `Finished`, these are `SearchBegun` and `SearchEnded`, one
    after the other for each search, between the deltas before it and those after it; likewise `FetchBegun` and
    `FetchEnded`. Deltas have only calls of the caller's own tools, which are numbered through the whole answer; such a
    call ends the answer, after the searches that the model has asked for beside it. `Finished.usage` is that of all
    rounds together. To count the tokens of such a chat, use `with_web_search` and `with_web_fetch`.

    When the conversation comes back, a dialect writes a search as a message of the assistant with a `ToolCall` named
    `WEB_SEARCH`, and one of the role ``tool`` with `results_text` or `problem_text`; a page as one of `WEB_FETCH`, with
    `page_text` or `fetch_problem_text`. That is what the model has read, so that the prompt is in memory still.
    """
    tools: list[WebTool] = []
    if search is not None:
        web.require_search()
        call = with_web_search(call, search)
        tools.append(WebSearcher(web, search, call.caller))
    if fetch is not None:
        web.require_fetch()
        call = with_web_fetch(call, fetch)
        tools.append(PageReader(web, fetch, call.caller))
    return SearchingAnswer(chats, tools, call, await chats.chat(call))


class SearchingAnswer:
    """An answer in progress, like a `Generation`: an async iterator of outputs, and an async context manager.

    The model's lease is returned while a search runs. Iterate it to its end or close it; closing aborts whatever runs.
    """

    def __init__(self, chats: Chats, tools: Sequence[WebTool], call: ChatCall, first: Generation) -> None:
        self.record = first.record
        self.load_ns = first.load_ns
        self.engine = first.engine
        self._chats = chats
        self._tools = {tool.name: tool for tool in tools}
        self._call = call
        self._current = first
        self._calls = 0
        limit = call.options.get("num_predict")
        self._most_tokens = limit if isinstance(limit, int) and limit > 0 else None
        self._outputs = self._rounds()

    def __aiter__(self) -> AsyncGenerator[Output, None]:
        return self._outputs

    def read_ahead(self) -> None:
        """Continue this round although the reader has stalled (see `Generation`)."""
        self._current.read_ahead()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Aborts the answer. Safe to call twice."""
        try:
            await self._outputs.aclose()
        finally:
            await self._current.aclose()

    async def _rounds(self) -> AsyncGenerator[Output, None]:
        usage, warnings, begun = Usage(), list[str](), False
        while True:
            heard, finished = _Round(self._calls, self._tools), None
            async for output in self._current:
                if isinstance(output, Finished):
                    finished = output
                elif isinstance(output, Delta):
                    if (own := heard.hear(output)) is not None:
                        yield own
                elif not (begun and isinstance(output, Started)):
                    begun = True
                    yield output
            if finished is None:
                return
            self._calls = heard.calls
            usage = _sum(usage, finished.usage)
            warnings += finished.warnings
            made: list[Made] = []
            for call in heard.web_calls if finished.reason == "stop" else ():
                tool = self._tools[call.name]
                yield tool.begun(call)
                made.append(await tool.make(call, self._seen(made)))
                yield made[-1].output
            offered = {tool.name for tool in self._call.tools}
            if heard.has_own_calls or not any(asked.name in offered for asked in heard.web_calls[: len(made)]):
                break
            left = None if self._most_tokens is None else self._most_tokens - usage.generated_tokens
            if left is not None and left <= 0:
                finished = msgspec.structs.replace(finished, reason="length")
                break
            self._call = self._continued(heard, made, left)
            self._current = await self._chats.chat(self._call)
        yield msgspec.structs.replace(finished, usage=usage, warnings=tuple(dict.fromkeys(warnings)))

    def _seen(self, made: Sequence[Made]) -> list[str]:
        """The texts that the model did not write."""
        read = [message.content for message in self._call.messages if message.role != "assistant"]
        return [*read, *(one.text for one in made)]

    def _continued(self, heard: _Round, made: Sequence[Made], left: int | None) -> ChatCall:
        """What comes next: the conversation with what was found in it, `left` tokens long at most.

        A tool of which a call was one too many is not offered any more, so that the answer comes to its end.
        """
        call = self._call
        refused = {asked.name for asked, one in zip(heard.web_calls, made, strict=True) if one.refused}
        results = [
            Message(role="tool", content=one.text, tool_name=asked.name, tool_call_id=asked.id)
            for asked, one in zip(heard.web_calls, made, strict=True)
        ]
        return msgspec.structs.replace(
            call,
            messages=(*call.messages, heard.message(), *results),
            tools=tuple(tool for tool in call.tools if tool.name not in refused),
            tool_choice=ANY_CHOICE,
            options=call.options if left is None else {**call.options, "num_predict": left},
        )


class _Round:
    """What the model says until it ends, or waits for the web. `calls` counts the caller's own so far, `web_tools` are
    the names of the others.
    """

    def __init__(self, calls: int, web_tools: Collection[str]) -> None:
        self.calls = calls
        self.web_calls: list[ToolCall] = []
        self._web_tools = web_tools
        self._before = calls
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._own: dict[int, int] = {}

    @property
    def has_own_calls(self) -> bool:
        return self.calls > self._before

    def hear(self, delta: Delta) -> Delta | None:
        """The delta without calls for the web; None if nothing is left of it."""
        self._texts.append(delta.text)
        self._thinking.append(delta.thinking)
        if not (delta.tool_calls or delta.tool_call_pieces):
            return delta
        self.web_calls += [call for call in delta.tool_calls if call.name in self._web_tools]
        # A piece without a name is one of a call that was numbered when its name came, or of one for the web.
        pieces = tuple(filter(None, map(self._piece, delta.tool_call_pieces)))
        calls = tuple(
            msgspec.structs.replace(call, index=self._number(call.index))
            for call in delta.tool_calls
            if call.name not in self._web_tools
        )
        own = msgspec.structs.replace(delta, tool_call_pieces=pieces, tool_calls=calls)
        return None if own == Delta() else own

    def message(self) -> Message:
        """What was said, as a message of the conversation."""
        return Message(
            role="assistant",
            content="".join(self._texts),
            thinking="".join(self._thinking) or None,
            tool_calls=tuple(msgspec.structs.replace(call, index=at) for at, call in enumerate(self.web_calls)),
        )

    def _piece(self, piece: ToolCallPiece) -> ToolCallPiece | None:
        if piece.name in self._web_tools or not (piece.name or piece.index in self._own):
            return None
        return msgspec.structs.replace(piece, index=self._number(piece.index))

    def _number(self, index: int) -> int:
        if index not in self._own:
            self._own[index] = self.calls
            self.calls += 1
        return self._own[index]


def _sum(one: Usage, other: Usage) -> Usage:
    names = Usage.__struct_fields__
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in names})
