"""The item of a response that is being written: its text so far, and the events that say so.

Each kind begins its events when it is made; `close` ends them and gives the item.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from corral.api.http.openai.replies import TokenEntry
from corral.api.http.openai.responses.events import ResponseEvents
from corral.api.http.openai.responses.items import new_id, search_id
from corral.api.http.openai.responses.replies import (
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    SearchAction,
    SearchSource,
    SummaryText,
    WebSearchItem,
    WebSearchResult,
)
from corral.api.http.openai.responses.web_search import cited, results_of
from corral.core.generation.web_search import SearchBegun, SearchEnded

__all__ = ("OpenCall", "OpenMessage", "OpenReasoning", "OpenSearch")


class OpenMessage:
    """A message of the assistant with one text, which may cite what was `found`."""

    def __init__(self, events: ResponseEvents, place: int, found: Sequence[WebSearchResult]) -> None:
        self._events = events
        self._found = found
        self._id = new_id("message")
        self._place = place
        self._texts: list[str] = []
        self._logprobs: list[TokenEntry] = []
        events.add(
            "response.output_item.added", output_index=place, item=MessageItem(id=self._id, status="in_progress")
        )
        part = OutputText(text="")
        events.add("response.content_part.added", item_id=self._id, output_index=place, content_index=0, part=part)
        events.begin_texts(
            "response.output_text.delta", item_id=self._id, output_index=place, content_index=0, logprobs=()
        )

    def add(self, text: str, logprobs: tuple[TokenEntry, ...]) -> None:
        self._texts.append(text)
        if not logprobs:
            self._events.add_text(text)
            return
        self._logprobs += logprobs
        self._events.add(
            "response.output_text.delta",
            item_id=self._id,
            output_index=self._place,
            content_index=0,
            delta=text,
            logprobs=logprobs,
        )

    def close(self, status: ItemStatus) -> OutputItem:
        add, place = self._events.add, self._place
        text = "".join(self._texts)
        part = OutputText(text=text, annotations=cited(text, self._found), logprobs=tuple(self._logprobs))
        item = MessageItem(id=self._id, status=status, content=(part,))
        for number, citation in enumerate(part.annotations):
            add(
                "response.output_text.annotation.added",
                item_id=self._id,
                output_index=place,
                content_index=0,
                annotation_index=number,
                annotation=citation,
            )
        add(
            "response.output_text.done",
            item_id=self._id,
            output_index=place,
            content_index=0,
            text=part.text,
            logprobs=part.logprobs,
        )
        add("response.content_part.done", item_id=self._id, output_index=place, content_index=0, part=part)
        add("response.output_item.done", output_index=place, item=item)
        return item


class OpenReasoning:
    """What the model thinks, as one summary. With `encrypts`, the item also has it where vendors encrypt it."""

    def __init__(self, events: ResponseEvents, place: int, *, encrypts: bool) -> None:
        self._events = events
        self._id = new_id("reasoning")
        self._place = place
        self._encrypts = encrypts
        self._texts: list[str] = []
        events.add(
            "response.output_item.added", output_index=place, item=ReasoningItem(id=self._id, status="in_progress")
        )
        part = SummaryText(text="")
        events.add(
            "response.reasoning_summary_part.added", item_id=self._id, output_index=place, summary_index=0, part=part
        )
        events.begin_texts(
            "response.reasoning_summary_text.delta", item_id=self._id, output_index=place, summary_index=0
        )

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._events.add_text(text)

    def close(self, status: ItemStatus) -> OutputItem:
        add, place = self._events.add, self._place
        part = SummaryText(text="".join(self._texts))
        encrypted = part.text if self._encrypts else None
        item = ReasoningItem(id=self._id, status=status, summary=(part,), encrypted_content=encrypted)
        add(
            "response.reasoning_summary_text.done",
            item_id=self._id,
            output_index=place,
            summary_index=0,
            text=part.text,
        )
        add("response.reasoning_summary_part.done", item_id=self._id, output_index=place, summary_index=0, part=part)
        add("response.output_item.done", output_index=place, item=item)
        return item


class OpenCall:
    """A call of a function, whose arguments are JSON text."""

    def __init__(self, events: ResponseEvents, place: int, call_id: str, name: str, namespace: str | None) -> None:
        self._events = events
        self._place = place
        self._texts: list[str] = []
        self._item = FunctionCallItem(
            id=new_id("function_call"),
            status="in_progress",
            call_id=call_id,
            name=name,
            arguments="",
            namespace=namespace or UNSET,
        )
        events.add("response.output_item.added", output_index=place, item=self._item)
        events.begin_texts("response.function_call_arguments.delta", item_id=self._item.id, output_index=place)

    def add(self, arguments: str) -> None:
        self._texts.append(arguments)
        self._events.add_text(arguments)

    def close(self, status: ItemStatus) -> OutputItem:
        item = msgspec.structs.replace(self._item, status=status, arguments="".join(self._texts))
        self._events.add(
            "response.function_call_arguments.done",
            item_id=item.id,
            output_index=self._place,
            name=item.name,
            arguments=item.arguments,
        )
        self._events.add("response.output_item.done", output_index=self._place, item=item)
        return item


class OpenSearch:
    """A search that the server makes. With `tells_sources`, its action lists the addresses that were found."""

    def __init__(self, events: ResponseEvents, place: int, begun: SearchBegun, *, tells_sources: bool) -> None:
        self._events = events
        self._place = place
        self._tells_sources = tells_sources
        action = SearchAction(query=begun.query, queries=(begun.query,))
        self._item = WebSearchItem(id=search_id(begun.id), status="in_progress", action=action)
        self._ended = SearchEnded(id=begun.id, problem="unavailable")
        events.add("response.output_item.added", output_index=place, item=self._item)
        for kind in ("in_progress", "searching"):
            events.add(f"response.web_search_call.{kind}", item_id=self._item.id, output_index=place)

    def ended(self, ended: SearchEnded) -> None:
        self._ended = ended

    def close(self, status: ItemStatus) -> WebSearchItem:
        """The item, which has failed unless `ended` has said otherwise."""
        found = results_of(self._ended.results)
        action = self._item.action
        if self._tells_sources:
            action = msgspec.structs.replace(action, sources=tuple(SearchSource(url=one.url) for one in found))
        is_done = self._ended.problem is None
        item = msgspec.structs.replace(
            self._item, status="completed" if is_done else "failed", action=action, results=found
        )
        if is_done:
            self._events.add("response.web_search_call.completed", item_id=item.id, output_index=self._place)
        self._events.add("response.output_item.done", output_index=self._place, item=item)
        return item
