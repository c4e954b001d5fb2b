"""Parts of a response: its items as messages, what its text cites, and how one in the background is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, nullcontext
from typing import Any, Self, cast

import pytest

from corral.api.http.answers import AnswerSource
from corral.api.http.errors import ApiError
from corral.api.http.openai.responses.items import input_items, messages_of
from corral.api.http.openai.responses.live import LiveResponse
from corral.api.http.openai.responses.replies import ResponseReply, WebSearchResult
from corral.api.http.openai.responses.run import ResponseRun
from corral.api.http.openai.responses.tools import ResponseTools
from corral.api.http.openai.responses.web_search import cited
from corral.api.http.openai.responses.writer import ResponseWriter
from corral.api.http.remarks import Remarks
from corral.core.access.limits import RateLimits
from corral.core.access_errors import TooManyRequests
from corral.core.errors import EngineError
from corral.core.generation.background import BackgroundWork
from corral.core.requests.outputs import Delta, Output, Started
from corral.core.requests.principal import Principal, RequestLimits

CUT = {"type": "function_call", "status": "incomplete", "call_id": "call_1", "name": "weather"}
URL = "https://a.example/x"


def test_a_call_that_was_cut_is_told() -> None:
    """It is text of the assistant's turn, after what it had said and beside the calls that it has made."""
    made = {"type": "function_call", "call_id": "call_0", "name": "weather", "arguments": "{}"}
    said = {"role": "assistant", "content": "Let me see."}
    cut = {**CUT, "arguments": '{"city": "P'}
    items = input_items([{"role": "user", "content": "hi"}, said, made, cut, {"role": "user", "content": "go on"}])
    asked, turn, more = messages_of(items, len(items))
    assert (asked.role, turn.role, more.content) == ("user", "assistant", "go on")
    assert turn.content == 'Let me see.\n\nThe call of weather was cut off and not made: {"city": "P'
    assert [call.id for call in turn.tool_calls] == ["call_0"]
    [alone] = messages_of(input_items([cut]), 1)
    assert (alone.role, alone.tool_calls) == ("assistant", ())
    assert alone.content.startswith("The call of weather")


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_call_with_arguments_is_a_call(status: str) -> None:
    """Whatever its status, if they are whole; arguments that are no JSON are an error in a call that is complete."""
    [turn] = messages_of(input_items([{**CUT, "status": status, "arguments": '{"city": "Paris"}'}]), 1)
    assert (turn.content, turn.tool_calls[0].arguments) == ("", {"city": "Paris"})
    with pytest.raises(ApiError, match="invalid tool call arguments"):
        messages_of(input_items([{**CUT, "status": "completed", "arguments": '{"city": "P'}]), 1)


def test_links_are_cited_as_a_whole() -> None:
    """Each from its own bracket on; an address with brackets around it is no link without an opening one."""
    text = f"[a]({URL}) and [b]({URL}), ]({URL})"
    places = [text[one.start_index : one.end_index] for one in cited(text, [_result(URL)])]
    assert places == [f"[a]({URL})", f"[b]({URL})", URL]
    assert [one.start_index for one in cited(f"]({URL})", [_result(URL)])] == [2]
    assert cited(URL, [_result(URL)])[0].end_index == len(URL)


def test_citing_takes_one_pass() -> None:
    """However often an answer repeats an address, what is copied of it and searched back is no more than itself."""

    class Watched(str):
        read = 0

        def __getitem__(self, key: Any) -> str:
            found = super().__getitem__(key)
            self.read += len(found)
            return found

        def rfind(self, wanted: str, start: Any = 0, end: Any = None) -> int:
            self.read += (len(self) if end is None else end) - start
            return super().rfind(wanted, start, end)

    text = Watched(f"x]({URL})" * 500)
    assert cited(text, [_result(URL)])
    assert text.read <= len(text)


def _result(url: str) -> WebSearchResult:
    return WebSearchResult(url=url, title="", text="")


def test_a_slow_follower_sees_the_end() -> None:
    """Of a response that has failed, also if it asks for more while the answer is being closed."""
    closing, closed = asyncio.Event(), asyncio.Event()

    class Failing:
        record, load_ns = None, 0

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *error: object) -> None:
            closing.set()
            await closed.wait()

        async def __aiter__(self) -> AsyncIterator[Output]:
            yield Started(prompt_tokens=1, cached_tokens=0)
            yield Delta(text="x", token_count=1)
            raise EngineError("boom")

    async def keep(writer: ResponseWriter) -> None:
        pass

    async def follow(live: LiveResponse) -> list[bytes]:
        return [event.split(b"\n")[0] async for event in live.events.follow(0)]

    async def main() -> list[bytes]:
        writer = _writer(stream=True)

        async def open() -> AnswerSource:
            return ResponseRun(cast("Any", Failing()), writer, keep)

        live = LiveResponse(writer, open, keep)
        await live.begin()
        running = asyncio.create_task(live.run(nullcontext()))
        await closing.wait()
        following = asyncio.create_task(follow(live))
        for _ in range(5):
            await asyncio.sleep(0)
        closed.set()
        await running
        return await asyncio.wait_for(following, 10)

    assert asyncio.run(main())[-2:] == [b"event: error", b"event: response.failed"]


def test_a_response_is_cancelled_once() -> None:
    """However many ask for it at once; it is kept before the work is over, and its last event is told once."""
    kept: list[str] = []

    async def keep(writer: ResponseWriter) -> None:
        await asyncio.sleep(0)
        kept.append("ended" if writer.has_ended else "queued")

    async def never() -> AnswerSource:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> list[bytes]:
        live = LiveResponse(_writer(stream=True), never, keep)
        await live.begin()
        running = asyncio.create_task(live.run(nullcontext()))
        await asyncio.sleep(0)
        live.unwanted()
        running.cancel()
        await asyncio.gather(running, live.cancelled(), live.cancelled(), return_exceptions=True)
        assert running.cancelled()
        return [event.split(b"\n")[0] async for event in live.events.follow(0)]

    events = asyncio.run(main())
    assert kept == ["queued", "ended"]
    assert len(events) == len(set(events))


@pytest.mark.parametrize("waits", [True, False])
def test_a_cancelled_response_is_kept_before_the_server_stops(waits: bool) -> None:
    """Also if it was still waiting for its turn, and whoever has cancelled it has left: until it is kept, it is in the
    background, and it ends as what it is, cancelled."""
    kept: list[str] = []
    can_keep = asyncio.Event()

    async def keep(writer: ResponseWriter) -> None:
        if writer.has_ended:
            await can_keep.wait()
        kept.append(writer.reply.status)

    async def never() -> AnswerSource:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        limits = RateLimits()
        background = BackgroundWork[LiveResponse](limits)
        one = Principal(name="one", limits=RequestLimits(parallel=1))
        if waits:
            limits.enter(one)
        live = LiveResponse(_writer(stream=True, background=True), never, keep)
        with background.place(one) as start:
            await live.begin()
            start("r", live, live.run, lambda: None)
        await asyncio.sleep(0)
        live.unwanted()
        cancelling = asyncio.create_task(background.cancel("one", "r"))
        for _ in range(5):
            await asyncio.sleep(0)
        cancelling.cancel()
        assert background.find("one", "r") is live
        stopping = asyncio.create_task(background.aclose())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done()
        can_keep.set()
        await stopping

    asyncio.run(main())
    assert kept == ["queued", "cancelled"]


def test_followers_are_counted() -> None:
    """As they take no place among a key's requests, so many follow a response at once, and no more."""
    live = LiveResponse(_writer(stream=True), cast("Any", None), cast("Any", None))
    with ExitStack() as followers:
        for _ in range(16):
            followers.enter_context(live.events.followed())
        with pytest.raises(TooManyRequests, match="is followed by 16"), live.events.followed():
            pass
    with live.events.followed():
        pass


@pytest.mark.parametrize(
    ("stream", "background", "is_kept"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_failure_is_kept_for_those_who_know_of_it(stream: bool, background: bool, is_kept: bool) -> None:
    """Nobody learns the id of a response that is answered as a whole and fails: the error is the answer."""
    kept: list[str] = []

    class Failing:
        record, load_ns = None, 0

        async def __aiter__(self) -> AsyncIterator[Output]:
            yield Started(prompt_tokens=1, cached_tokens=0)
            raise EngineError("boom")

    async def keep(writer: ResponseWriter) -> None:
        kept.append(writer.reply.status)

    async def main() -> None:
        run = ResponseRun(cast("Any", Failing()), _writer(stream=stream, background=background), keep)
        with pytest.raises(ApiError, match="boom"):
            async for _ in run:
                pass

    asyncio.run(main())
    assert kept == (["failed"] if is_kept else [])


def _writer(*, stream: bool, background: bool = False) -> ResponseWriter:
    reply = ResponseReply(id="r", created_at=0, status="queued", model="m", store=True, background=background)
    return ResponseWriter(reply, ResponseTools([]), Remarks(()), stream=stream, include=())
