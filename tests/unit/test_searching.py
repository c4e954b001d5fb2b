"""Answers that search the web, over a model and a provider that follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest

from corral.core.errors import EngineDied, InvalidRequest
from corral.core.generation.answers import Generation
from corral.core.generation.searching import SearchingAnswer, searching_chat
from corral.core.generation.web_fetch import FetchBegun, FetchEnded, FetchProblem, WebFetch, page_text
from corral.core.generation.web_search import DEFAULT_USES, SearchBegun, SearchEnded, WebSearch, results_text
from corral.core.models.digests import Digest
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.ports.web import SearchResult, WebPage
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, ToolCallPiece, Usage
from corral.core.requests.tool_choice import ToolChoice
from corral.core.scheduling.leases import Lease
from corral.core.web.access import WebAccess
from corral.core.web.domains import DomainFilter
from corral.core.web_errors import AddressRefused, WebDisabled, WebError

_RECORD = StoredModel(
    name=parse_name("tiny"), digest=Digest("sha256:" + "1" * 64), size_bytes=1, modified_at=0, format="gguf"
)
_ANY = WebSearch()
_HELLO = (Message(role="user", content="hello"),)
_END = Finished(reason="stop", usage=Usage(prompt_tokens=10, cached_tokens=4, generated_tokens=5))


class _Lease:
    load_ns, engine, ignored_options = 7, "fake", ()


class _Chats:
    """Answers each chat with the next of its rounds, or the last one for ever; remembers calls and open answers."""

    def __init__(self, *rounds: Sequence[Output | Exception]) -> None:
        self.rounds = list(rounds)
        self.calls: list[ChatCall] = []
        self.open = 0

    async def chat(self, call: ChatCall) -> Generation:
        self.calls.append(call)
        script = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        self.open += 1
        stack = AsyncExitStack()
        stack.callback(self._closed)

        async def outputs() -> Any:
            yield Started(prompt_tokens=10)
            for output in script:
                if isinstance(output, Exception):
                    raise output
                yield output
                await asyncio.sleep(0)

        return Generation(_RECORD, cast(Lease, _Lease()), outputs(), stack)

    def _closed(self) -> None:
        self.open -= 1


class _Provider:
    def __init__(self, chats: _Chats | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.open: list[int] = []
        self.chats = chats

    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        self.asked.append((query, max_results))
        if self.chats is not None:
            self.open.append(self.chats.open)
        if query == "down":
            raise WebError("it cannot be reached")
        hosts = ("a.example", "b.example", "www.a.example", "nota.example")
        return tuple(SearchResult(title=query, url=f"https://{host}/x", content="text") for host in hosts)

    async def aclose(self) -> None:
        pass


class _Fetcher:
    """Has every page; ``redirecting`` ones are elsewhere."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fetch(self, url: str) -> WebPage:
        self.asked.append(url)
        if "inside" in url:
            raise AddressRefused("it is not public")
        if "gone" in url:
            raise WebError("there is no such page")
        return WebPage(url="https://b.example/" if "redirecting" in url else url, title="T", content="long text " * 9)


def _reads(url: Any, id: str = "f1") -> Delta:
    return Delta(tool_calls=(ToolCall(name="web_fetch", arguments={"url": url}, id=id),))


def _asks(query: Any = "corral", id: str = "s1", index: int = 0) -> Delta:
    call = ToolCall(name="web_search", arguments={"query": query}, id=id, index=index)
    return Delta(tool_calls=(call,), token_count=3)


def _heard(
    chats: _Chats,
    search: WebSearch = _ANY,
    provider: _Provider | None = None,
    fetch: WebFetch | None = None,
    fetcher: _Fetcher | None = None,
    messages: tuple[Message, ...] = _HELLO,
    **more: Any,
) -> list[Output]:
    async def main() -> list[Output]:
        web = WebAccess(provider or _Provider(), fetcher or _Fetcher())
        call = ChatCall(model="tiny", messages=messages, **more)
        async with await searching_chat(chats, web, call, search, fetch) as answer:
            return [output async for output in answer]

    return asyncio.run(main())


def _ended(outputs: Sequence[Output]) -> list[SearchEnded]:
    return [output for output in outputs if isinstance(output, SearchEnded)]


def test_the_model_goes_on_with_what_was_found() -> None:
    """One answer comes out of two rounds, and the second has the search and its results in its conversation."""
    chats = _Chats(
        [Delta(thinking="hm"), Delta(text="Let me see."), _asks(), _END],
        [Delta(text="It is "), Delta(text="a server."), _END],
    )
    provider = _Provider(chats)
    outputs = _heard(chats, provider=provider, tools=(Tool(name="own"),))
    found = tuple(
        SearchResult(title="corral", url=f"https://{host}/x", content="text")
        for host in ("a.example", "b.example", "www.a.example", "nota.example")
    )
    assert outputs == [
        Started(prompt_tokens=10),
        Delta(thinking="hm"),
        Delta(text="Let me see."),
        Delta(token_count=3),
        SearchBegun(id="s1", query="corral"),
        SearchEnded(id="s1", results=found),
        Delta(text="It is "),
        Delta(text="a server."),
        Finished(reason="stop", usage=Usage(prompt_tokens=20, cached_tokens=8, generated_tokens=10)),
    ]
    assert [[tool.name for tool in call.tools] for call in chats.calls] == [["own", "web_search"]] * 2
    asked = ToolCall(name="web_search", arguments={"query": "corral"}, id="s1")
    assert chats.calls[1].messages == (
        *_HELLO,
        Message(role="assistant", content="Let me see.", thinking="hm", tool_calls=(asked,)),
        Message(role="tool", content=results_text(found), tool_name="web_search", tool_call_id="s1"),
    )
    assert provider.open == [0], "the model is free while the search runs"
    assert chats.open == 0


def test_nothing_runs_without_a_provider() -> None:
    """The error names the setting, and comes before the model is asked."""
    chats = _Chats([_END])
    with pytest.raises(WebDisabled) as refused:
        asyncio.run(searching_chat(chats, WebAccess(), ChatCall(model="tiny", messages=_HELLO), WebSearch()))
    assert "web.search" in str(refused.value.remedy)
    assert not chats.calls
    with pytest.raises(InvalidRequest, match="two tools named 'web_search'"):
        _heard(chats, tools=(Tool(name="web_search"),))
    assert not chats.calls


@pytest.mark.parametrize(("most", "made"), [(1, 1), (2, 2), (None, DEFAULT_USES)])
def test_searches_are_limited(most: int | None, made: int) -> None:
    """A model that searches for ever is told that it may not, and then is not offered the search any more."""
    chats, provider = _Chats(*[[_asks(), _END]] * (made + 1), [Delta(text="So."), _END]), _Provider()
    outputs = _heard(chats, WebSearch(max_uses=most), provider)
    assert len(provider.asked) == made
    assert [ended.problem for ended in _ended(outputs)] == [None] * made + ["too_many_uses"]
    assert [len(call.tools) for call in chats.calls] == [1] * (made + 1) + [0]
    assert outputs[-2] == Delta(text="So.")


@pytest.mark.parametrize(
    "asked", [_asks(" "), _asks("q" * 5000), _asks("down"), _reads(""), _reads("https://made.example/up")], ids=str
)
@pytest.mark.parametrize("most", [2, None])
def test_calls_that_fail_are_limited_as_well(asked: Delta, most: int | None) -> None:
    """A model that makes the same mistake for ever comes to an end, also one that calls what it is not offered."""
    chats = _Chats([asked, _END])
    _heard(chats, WebSearch(max_uses=most), fetch=WebFetch(max_uses=most))
    assert len(chats.calls) == (most or DEFAULT_USES) + 2


@pytest.mark.parametrize(
    ("query", "problem"),
    [("down", "unavailable"), ("q" * 5000, "query_too_long"), (" ", "no_query"), (7, "no_query")],
)
def test_a_search_that_fails_does_not_end_the_answer(query: Any, problem: str) -> None:
    """The model reads that it has failed, and answers without it."""
    chats = _Chats([_asks(query), _END], [Delta(text="I do not know."), _END])
    outputs = _heard(chats)
    assert [(ended.problem, ended.results) for ended in _ended(outputs)] == [(problem, ())]
    assert chats.calls[1].messages[-1].content.startswith("Error: ")
    assert outputs[-2] == Delta(text="I do not know.")


def test_calls_of_the_caller_end_the_answer() -> None:
    """What the model has searched for beside them is there; calls and pieces are numbered without the searches."""
    own = ToolCall(name="own", arguments={}, id="c1", index=1)
    chats = _Chats(
        [
            Delta(tool_call_pieces=(ToolCallPiece(index=0, id="s1", name="web_search", arguments='{"query":'),)),
            Delta(tool_call_pieces=(ToolCallPiece(index=0, id="s1", arguments='"q"}'),)),
            _asks(),
            Delta(tool_call_pieces=(ToolCallPiece(index=1, id="c1", name="own", arguments="{"),), token_count=1),
            Delta(tool_call_pieces=(ToolCallPiece(index=1, id="c1", arguments="}"),), tool_calls=(own,)),
            _END,
        ]
    )
    outputs = _heard(chats, tools=(Tool(name="own"),), tool_calls_in_pieces=True)
    deltas = [output for output in outputs if isinstance(output, Delta)]
    assert [piece for delta in deltas for piece in delta.tool_call_pieces] == [
        ToolCallPiece(index=0, id="c1", name="own", arguments="{"),
        ToolCallPiece(index=0, id="c1", arguments="}"),
    ]
    assert [(call.name, call.index) for delta in deltas for call in delta.tool_calls] == [("own", 0)]
    assert sum(delta.token_count for delta in deltas) == 4
    assert len(_ended(outputs)) == 1
    assert isinstance(outputs[-1], Finished)
    assert len(chats.calls) == 1


def test_several_searches_at_once() -> None:
    """Each has its result, in the order in which the model has asked."""
    chats = _Chats([_asks("a", "s1"), _asks("b", "s2", 1), _END], [_END])
    outputs = _heard(chats)
    assert [type(output).__name__ for output in outputs if isinstance(output, SearchBegun | SearchEnded)] == [
        "SearchBegun", "SearchEnded", "SearchBegun", "SearchEnded",
    ]  # fmt: skip
    assert [message.tool_call_id for message in chats.calls[1].messages[2:]] == ["s1", "s2"]


def test_the_limit_of_tokens_is_one_for_all_rounds() -> None:
    """A round gets what the rounds before have left, and none if nothing is left; a cut answer does not search."""
    chats = _Chats([_asks(), _END], [_asks(), _END], [Delta(text="x"), _END])
    outputs = _heard(chats, options={"num_predict": 10})
    assert [call.options["num_predict"] for call in chats.calls] == [10, 5]
    assert isinstance(outputs[-1], Finished)
    assert (outputs[-1].reason, outputs[-1].usage.generated_tokens) == ("length", 10)
    chats = _Chats([_asks(), Finished(reason="length", usage=Usage())])
    outputs = _heard(chats)
    assert not _ended(outputs)
    assert len(chats.calls) == 1


def test_a_required_search_is_required_once() -> None:
    """Later rounds may answer."""
    chats = _Chats([_asks(), _END], [Delta(text="x"), _END])
    _heard(chats, tool_choice=ToolChoice(mode="required", name="web_search"))
    assert [call.tool_choice.mode for call in chats.calls] == ["required", "auto"]


def test_only_wanted_domains_are_found() -> None:
    """What the provider finds elsewhere is dropped; it is asked for more, so that something is left."""
    chats, provider = _Chats([_asks(), _END], [_END]), _Provider()
    [ended] = _ended(_heard(chats, WebSearch(allowed_domains=("a.example",)), provider))
    assert [one.url for one in ended.results] == ["https://a.example/x", "https://www.a.example/x"]
    assert provider.asked == [("site:a.example corral", 10)]
    chats = _Chats([_asks(), _END], [_END])
    [ended] = _ended(_heard(chats, WebSearch(blocked_domains=("A.example",), max_results=1)))
    assert [one.url for one in ended.results] == ["https://b.example/x"]


@pytest.mark.parametrize(
    ("domain", "url", "lets"),
    [
        ("a.example", "https://a.example", True),
        ("a.example", "https://www.A.example./p", True),
        ("https://a.example", "http://a.example:8080/p", True),
        ("a.example", "https://nota.example/", False),
        ("a.example", "https://b.example/a.example", False),
        ("a.example", "https://a.example@b.example/", False),
        ("a.example/blog", "https://a.example/blog/1", True),
        ("a.example/blog", "https://a.example/shop", False),
        ("a.example/*/en", "https://a.example/docs/en/1", True),
        ("a.example/[x]", "https://a.example/x", False),
        ("a.example", "not an address", False),
        ("a.example", "https://[::1", False),
    ],
)
def test_domains(domain: str, url: str, lets: bool) -> None:
    """Those below a domain belong to it, paths by their beginning; a block is the opposite of what is allowed."""
    assert DomainFilter(allowed=(domain,)).lets(url) == lets
    if "example" in url:
        assert DomainFilter(blocked=(domain,)).lets(url) != lets
    assert not DomainFilter(allowed=(domain,), blocked=(domain,)).lets(url)


def test_a_page_is_read() -> None:
    """Its text, cut to the limit, is in the conversation of the next round; what was found may be read."""
    chats = _Chats([_asks(), _END], [_reads("https://b.example/x"), _END], [Delta(text="So."), _END])
    outputs = _heard(chats, fetch=WebFetch(max_page_chars=9))
    page = WebPage(url="https://b.example/x", title="T", content="long text")
    assert [output for output in outputs if isinstance(output, FetchBegun | FetchEnded)] == [
        FetchBegun(id="f1", url="https://b.example/x"),
        FetchEnded(id="f1", page=page),
    ]
    assert chats.calls[2].messages[-1] == Message(
        role="tool", content=page_text(page), tool_name="web_fetch", tool_call_id="f1"
    )
    assert [[tool.name for tool in call.tools] for call in chats.calls] == [["web_search", "web_fetch"]] * 3


@pytest.mark.parametrize(
    ("url", "problem", "asked"),
    [
        ("", "no_url", False),
        (3, "no_url", False),
        ("https://evil.example/?secret", "unknown_url", False),
        ("https://said.example/", "unknown_url", False),
        ("https://blocked.example/", "refused_url", False),
        ("https://inside.example/", "refused_url", True),
        ("https://redirecting.example/", "refused_url", True),
        ("https://gone.example/", "not_accessible", True),
    ],
)
def test_pages_that_are_not_read(url: Any, problem: FetchProblem, asked: bool) -> None:
    """Above all those whose address the model has made up: it could carry away what the model has read."""
    pages = "blocked", "inside", "redirecting", "gone"
    text = " ".join(f"https://{name}.example/" for name in pages)
    said = Message(role="assistant", content="https://said.example/")
    chats, fetcher = _Chats([_reads(url), _END], [Delta(text="x"), _END]), _Fetcher()
    fetch = WebFetch(blocked_domains=("blocked.example", "b.example"))
    outputs = _heard(chats, fetch=fetch, fetcher=fetcher, messages=(Message(role="user", content=text), said))
    assert [output for output in outputs if isinstance(output, FetchEnded)] == [FetchEnded(id="f1", problem=problem)]
    assert bool(fetcher.asked) == asked
    assert chats.calls[1].messages[-1].content.startswith("Error: ")


def test_pages_are_limited_by_themselves() -> None:
    """A page too many is refused and not offered again; searches still are. Without a fetcher, nothing runs."""
    chats = _Chats([_reads("hello"), _END], [_reads("hello"), _END], [_asks(), _END], [_END])
    outputs = _heard(chats, fetch=WebFetch(max_uses=1))
    assert [output.problem for output in outputs if isinstance(output, FetchEnded)] == [None, "too_many_uses"]
    assert [len(call.tools) for call in chats.calls] == [2, 2, 1, 1]
    chats, call = _Chats([_END]), ChatCall(model="tiny", messages=_HELLO)
    with pytest.raises(WebDisabled) as refused:
        asyncio.run(searching_chat(chats, WebAccess(_Provider()), call, None, WebFetch()))
    assert "web.fetch" in str(refused.value.remedy)
    assert not chats.calls


def test_an_error_in_a_later_round_ends_the_answer() -> None:
    """It is raised where it happens, and nothing stays open."""
    chats = _Chats([_asks(), _END], [Delta(text="x"), EngineDied("gone")])
    with pytest.raises(EngineDied):
        _heard(chats)
    assert chats.open == 0


@pytest.mark.parametrize("read", [0, 1, 4, 5])
def test_an_answer_that_nobody_reads_to_its_end(read: int) -> None:
    """Closing it frees the model, wherever it is."""
    chats = _Chats([Delta(text="a"), _asks(), _END], [Delta(text="x"), _END])

    async def main() -> SearchingAnswer:
        call = ChatCall(model="tiny", messages=_HELLO)
        answer = await searching_chat(chats, WebAccess(_Provider()), call, WebSearch())
        for _ in range(read):
            await anext(aiter(answer))
        await answer.aclose()
        await answer.aclose()
        return answer

    asyncio.run(main())
    assert chats.open == 0
