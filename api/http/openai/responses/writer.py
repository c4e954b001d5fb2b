"""Makes a response from the outputs of a generation, with its events if it is streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET

from corral.api.http.answer_pieces import AnswerPieces
from corral.api.http.errors import ApiError
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.replies import TokenEntry, token_entries
from corral.api.http.openai.responses.body import ENCRYPTED_REASONING, SEARCH_SOURCES
from corral.api.http.openai.responses.events import ResponseEvents
from corral.api.http.openai.responses.open_items import OpenCall, OpenMessage, OpenReasoning, OpenSearch
from corral.api.http.openai.responses.replies import (
    IncompleteDetails,
    ItemStatus,
    OutputItem,
    ResponseFailure,
    ResponseReply,
    ResponseStatus,
    ResponseUsage,
    WebSearchResult,
)
from corral.api.http.openai.responses.tools import ResponseTools
from corral.api.http.openai.responses.web_search import results_of
from corral.api.http.remarks import Remarks
from corral.api.http.thinking_tokens import ThinkingTokens
from corral.core.generation.web_search import SearchBegun, SearchEnded
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, ToolCallPiece

__all__ = ("ResponseWriter",)

_arguments = msgspec.json.Encoder().encode


class ResponseWriter:
    """One response, from its beginning to its end. `reply` is what has become of it so far.

    After `finish`, `fail` or `cancel`, `conclude` writes the last events.
    """

    def __init__(
        self, reply: ResponseReply, tools: ResponseTools, remarks: Remarks, *, stream: bool, include: Sequence[str]
    ) -> None:
        self.reply = reply
        self.remarks = remarks
        self.has_begun = False
        self.has_ended = False
        self.has_concluded = False
        self._tools = tools
        self._include = include
        self.streams = stream
        self._events = ResponseEvents(stream=stream)
        self._pieces = AnswerPieces()
        self._thinking = ThinkingTokens()
        self._open: OpenCall | OpenMessage | OpenReasoning | OpenSearch | None = None
        self._found: list[WebSearchResult] = []
        self._call = 0
        """The index of the call that is open."""
        self._items: list[OutputItem] = []
        self._logprobs: list[TokenEntry] = []

    @property
    def current(self) -> ResponseReply:
        """The response with the items that are complete."""
        return msgspec.structs.replace(self.reply, output=tuple(self._items))

    def take(self) -> list[bytes]:
        """The events since they were last taken."""
        return self._events.take()

    def queue(self) -> None:
        """Tell that there is a response before its turn has come."""
        self.has_begun = True
        self._events.add("response.created", response=self.reply)
        self._events.add("response.queued", response=self.reply)

    def hear(self, output: Output) -> None:
        """Everything but the end of the answer."""
        if isinstance(output, Started):
            self.remarks.started(output)
            self._begin()
        elif isinstance(output, SearchBegun | SearchEnded):
            self._search(output)
        elif isinstance(output, Delta):
            self._begin()
            self._thinking.hear(output)
            self._logprobs += token_entries(output.logprobs)
            if self.streams:
                self._hear(self._pieces.of(output, output.tool_call_pieces))
            else:
                self._hear(self._pieces.of(output, output.tool_calls))
            if isinstance(self._open, OpenCall) and self._call in [call.index for call in output.tool_calls]:
                self._close("completed")

    def _hear(self, pieces: Iterable[tuple[str, str | ToolCall | ToolCallPiece]]) -> None:
        for kind, more in pieces:
            if isinstance(more, ToolCall):
                self._begin_call(more).add(_arguments(more.arguments).decode())
            elif isinstance(more, ToolCallPiece):
                call = self._begin_call(more) if more.name else self._open
                if isinstance(call, OpenCall) and more.arguments:
                    call.add(more.arguments)
            elif kind == "thinking":
                self._think(more)
            else:
                self._say(more)

    def finish(self, finished: Finished) -> None:
        """The answer is complete, or was cut."""
        self._begin()
        if not self._items and self._open is None:
            self._say(self._pieces.space)  # nothing else is coming
        is_cut = finished.reason == "length"
        self._end(
            "incomplete" if is_cut else "completed",
            usage=ResponseUsage.of(finished.usage, self._thinking.count),
            completed_at=None if is_cut else int(time.time()),
            incomplete_details=IncompleteDetails() if is_cut else None,
            corral=self.remarks.of(finished) or UNSET,
        )

    def fail(self, problem: ApiError) -> None:
        """The answer has failed; what has come of it stays."""
        detail = OPENAI.detail(problem)
        self._end("failed", error=ResponseFailure.of(detail, problem.status))
        self._events.add("error", code=detail.code, message=detail.message, param=detail.param)

    def cancel(self) -> None:
        """Somebody has cancelled the response; what has come of it stays."""
        self._end("cancelled")

    def not_kept(self, reason: str) -> None:
        """The response, which has ended, could not be stored."""
        told = {} if self.reply.corral is UNSET else dict(self.reply.corral)
        told["warnings"] = [*told.get("warnings", ()), reason]
        self.reply = msgspec.structs.replace(self.reply, store=False, corral=told)

    def conclude(self) -> None:
        """Write the event that ends the stream."""
        self.has_concluded = True
        kind = "incomplete" if self.reply.status == "cancelled" else self.reply.status
        self._events.add(f"response.{kind}", response=self.reply)

    def _begin(self) -> None:
        if self.reply.status == "queued":
            self.reply = msgspec.structs.replace(self.reply, status="in_progress")
            if not self.has_begun:
                self.has_begun = True
                self._events.add("response.created", response=self.reply)
            self._events.add("response.in_progress", response=self.reply)

    def _end(self, status: ResponseStatus, /, **fields: object) -> None:
        self._close("completed" if status == "completed" else "incomplete")
        self.has_ended = True
        self.reply = msgspec.structs.replace(self.reply, status=status, output=tuple(self._items), **fields)

    def _say(self, text: str) -> None:
        if not isinstance(self._open, OpenMessage):
            self._close("completed")
            self._open = OpenMessage(self._events, len(self._items), self._found)
        logprobs, self._logprobs = tuple(self._logprobs), []
        self._open.add(text, logprobs)

    def _think(self, text: str) -> None:
        if not isinstance(self._open, OpenReasoning):
            self._close("completed")
            self._open = OpenReasoning(self._events, len(self._items), encrypts=ENCRYPTED_REASONING in self._include)
        self._open.add(text)

    def _begin_call(self, call: ToolCall | ToolCallPiece) -> OpenCall:
        self._close("completed")
        name, space = self._tools.named(call.name)
        id = call.id or f"call_{secrets.token_hex(12)}"
        self._open = begun = OpenCall(self._events, len(self._items), id, name, space)
        self._call = call.index
        return begun

    def _search(self, output: SearchBegun | SearchEnded) -> None:
        self._pieces.interrupted()
        if isinstance(output, SearchBegun):
            self._close("completed")
            tells_sources = SEARCH_SOURCES in self._include
            self._open = OpenSearch(self._events, len(self._items), output, tells_sources=tells_sources)
        elif isinstance(self._open, OpenSearch):
            self._open.ended(output)
            self._found += results_of(output.results)
            self._close("completed")

    def _close(self, status: ItemStatus) -> None:
        if self._open is not None:
            self._items.append(self._open.close(status))
            self._open = None
