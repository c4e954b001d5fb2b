"""The use case of answers that search the web: the model calls for searches, and goes on with what they find."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Protocol, Self

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.generation.answers import Generation
from corral.core.generation.web_search import (
    DEFAULT_USES,
    WEB_SEARCH,
    SearchBegun,
    SearchEnded,
    SearchProblem,
    WebSearch,
    problem_text,
    results_text,
    with_web_search,
)
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message, ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, ToolCallPiece, Usage
from corral.core.requests.tool_choice import ANY_CHOICE
from corral.core.web.access import DEFAULT_RESULTS, MOST_RESULTS, WebAccess
from corral.core.web.domains import DomainFilter
from corral.core.web_errors import QueryTooLong, WebError
from corral.core.wording.clipping import clipped_line

__all__ = ("Chats", "SearchingAnswer", "searching_chat")

_log = logging.getLogger(__name__)


class Chats(Protocol):
    """What is asked of the `InferenceService`."""

    async def chat(self, call: ChatCall) -> Generation: ...


async def searching_chat(chats: Chats, web: WebAccess, call: ChatCall, search: WebSearch) -> SearchingAnswer:
    """Answers a chat whose model may search the web. What the first round of it raises is raised here, at once.

    Raises `WebDisabled` if nothing may be searched, before anything runs, `InvalidRequest` if the call has a tool named
    ``web_search`` itself, and what `InferenceService.chat` raises.

    A dialect calls it in place of `InferenceService.chat`, gives the result to its `AnswerResponse`, and translates
    what comes out. Beside `Started` (once), `Delta`s and `Finished`, these are `SearchBegun` and `SearchEnded`, one
    after the other for each search, between the deltas before it and those after it. Deltas have only calls of the
    caller's own tools, which are numbered through the whole answer; such a call ends the answer, after the searches
    that the model has asked for beside it. `Finished.usage` is that of all rounds together. To count the tokens of such
    a chat, use `with_web_search`.

    When the conversation comes back, a dialect writes a search as a message of the assistant with a `ToolCall` named
    `WEB_SEARCH`, and one of the role ``tool`` with `results_text` or `problem_text`: that is what the model has read,
    so that the prompt is in memory still.
    """
    web.require_search()
    call = with_web_search(call, search)
    return SearchingAnswer(chats, web, call, search, await chats.chat(call))


class SearchingAnswer:
    """An answer in progress, like a `Generation`: an async iterator of outputs, and an async context manager.

    The model's lease is returned while a search runs. Iterate it to its end or close it; closing aborts whatever runs.
    """

    def __init__(self, chats: Chats, web: WebAccess, call: ChatCall, search: WebSearch, first: Generation) -> None:
        self.record = first.record
        self.load_ns = first.load_ns
        self.engine = first.engine
        self._chats = chats
        self._web = web
        self._call = call
        self._search = search
        self._filter = DomainFilter(search.allowed_domains, search.blocked_domains)
        self._left = DEFAULT_USES if search.max_uses is None else search.max_uses
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
            heard, finished = _Round(self._calls), None
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
            ended: list[SearchEnded] = []
            for call in heard.searches if finished.reason == "stop" else ():
                yield SearchBegun(id=str(call.id), query=_query(call))
                ended.append(await self._searched(call))
                yield ended[-1]
            if not ended or heard.has_own_calls:
                break
            left = None if self._most_tokens is None else self._most_tokens - usage.generated_tokens
            if left is not None and left <= 0:
                finished = msgspec.structs.replace(finished, reason="length")
                break
            self._call = self._continued(heard, ended, left)
            self._current = await self._chats.chat(self._call)
        yield msgspec.structs.replace(finished, usage=usage, warnings=tuple(dict.fromkeys(warnings)))

    async def _searched(self, call: ToolCall) -> SearchEnded:
        """Makes the search, if it may be made. A failure is told to the model, and to the log."""
        query, id = _query(call), str(call.id)
        if self._left <= 0:
            return SearchEnded(id=id, problem="too_many_uses")
        if not query:
            return SearchEnded(id=id, problem="no_query")
        self._left -= 1
        allowed = self._search.allowed_domains
        if len(allowed) == 1:  # search services understand this; of several domains, only some of them do
            query = f"site:{allowed[0]} {query}"
        count = self._search.max_results or DEFAULT_RESULTS
        problem: SearchProblem = "unavailable"
        try:
            wanted = MOST_RESULTS if self._filter else count
            found = await self._web.search(query, wanted, caller=self._call.caller)
        except QueryTooLong:
            problem = "query_too_long"
        except (InvalidRequest, WebError) as error:
            _log.warning("%s: a search failed: %s", self.record.name.short, clipped_line(str(error)))
        else:
            return SearchEnded(id=id, results=self._filter.of(found)[:count])
        return SearchEnded(id=id, problem=problem)

    def _continued(self, heard: _Round, ended: list[SearchEnded], left: int | None) -> ChatCall:
        """What comes next: the conversation with what was found in it, `left` tokens long at most.

        Once a search was refused, the model is not offered another one, so that the answer comes to its end.
        """
        call = self._call
        refused = any(one.problem == "too_many_uses" for one in ended)
        tools = tuple(tool for tool in call.tools if not (refused and tool.name == WEB_SEARCH))
        return msgspec.structs.replace(
            call,
            messages=(*call.messages, heard.message(), *map(_result, ended)),
            tools=tools,
            tool_choice=ANY_CHOICE,
            options=call.options if left is None else {**call.options, "num_predict": left},
        )


class _Round:
    """What the model says until it ends, or waits for its searches. `calls` counts the caller's own so far."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.searches: list[ToolCall] = []
        self._before = calls
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._own: dict[int, int] = {}

    @property
    def has_own_calls(self) -> bool:
        return self.calls > self._before

    def hear(self, delta: Delta) -> Delta | None:
        """The delta without calls that search; None if nothing is left of it."""
        self._texts.append(delta.text)
        self._thinking.append(delta.thinking)
        if not (delta.tool_calls or delta.tool_call_pieces):
            return delta
        self.searches += [call for call in delta.tool_calls if call.name == WEB_SEARCH]
        # A piece without a name is one of a call that was numbered when its name came, or of a search.
        pieces = tuple(filter(None, map(self._piece, delta.tool_call_pieces)))
        calls = tuple(
            msgspec.structs.replace(call, index=self._number(call.index))
            for call in delta.tool_calls
            if call.name != WEB_SEARCH
        )
        own = msgspec.structs.replace(delta, tool_call_pieces=pieces, tool_calls=calls)
        return None if own == Delta() else own

    def message(self) -> Message:
        """What was said, as a message of the conversation."""
        return Message(
            role="assistant",
            content="".join(self._texts),
            thinking="".join(self._thinking) or None,
            tool_calls=tuple(msgspec.structs.replace(call, index=at) for at, call in enumerate(self.searches)),
        )

    def _piece(self, piece: ToolCallPiece) -> ToolCallPiece | None:
        if piece.name == WEB_SEARCH or not (piece.name or piece.index in self._own):
            return None
        return msgspec.structs.replace(piece, index=self._number(piece.index))

    def _number(self, index: int) -> int:
        if index not in self._own:
            self._own[index] = self.calls
            self.calls += 1
        return self._own[index]


def _query(call: ToolCall) -> str:
    query = call.arguments.get("query")
    return query.strip() if isinstance(query, str) else ""


def _result(ended: SearchEnded) -> Message:
    text = results_text(ended.results) if ended.problem is None else problem_text(ended.problem)
    return Message(role="tool", content=text, tool_name=WEB_SEARCH, tool_call_id=ended.id)


def _sum(one: Usage, other: Usage) -> Usage:
    names = Usage.__struct_fields__
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in names})
