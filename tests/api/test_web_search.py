"""Models that search the web while they answer, with the vendor's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import msgspec
import pytest

from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.spec import SPEC
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.web import SearchResult, WebPage
from corral.core.specs.engines import LoadRequest
from corral.core.web.access import WebAccess
from corral.core.web_errors import WebError
from tests.api.conftest import running_server
from tests.api.scripted_engine import AnsweringEngine
from tests.api.test_tools import CALL, PARAMETERS, WEIGHTS

SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}
FETCH: Any = {"type": "web_fetch_20250910", "name": "web_fetch", "max_content_tokens": 5}
TOOL: Any = {"name": "weather", "input_schema": PARAMETERS}


def asking(query: str) -> str:
    return f'<tool_call>\n{{"name": "web_search", "arguments": {{"query": "{query}"}}}}\n</tool_call>'


def fetching(url: str) -> str:
    return f'<tool_call>\n{{"name": "web_fetch", "arguments": {{"url": "{url}"}}}}\n</tool_call>'


SCRIPT = [
    ("question", f"Let me look.\n{asking('corral')}"),
    ("thanks", "You are welcome."),
    ("broken", asking("down")),
    ("greedy", asking("more")),
    ("page about more", asking("more")),
    ("both", f"{asking('corral')}\n{CALL}"),
    ("read https://a.example/doc", fetching("https://a.example/doc")),
    ("read https://a.example/gone", fetching("https://a.example/gone")),
    ("read nothing", fetching("https://a.example/secret")),
    ("text of the page", "It is a page."),
    ("Error: ", "I cannot read it."),
    ("page about corral", "It is a model server."),
    ("Error: the search", "I cannot look."),
    ("Error: no more searches", "That is all."),
]


class _Engine(AnsweringEngine):
    answers = SCRIPT


def load(request: LoadRequest, on_progress: OnLoadProgress) -> _Engine:
    return _Engine(msgspec.convert(request.load_options, FakeLoadOptions))


class _Provider:
    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        if query == "down":
            raise WebError("it cannot be reached")
        return (SearchResult(title="A page", url="https://a.example/x", content=f"page about {query}"),)

    async def aclose(self) -> None:
        pass


class _Fetcher:
    async def fetch(self, url: str) -> WebPage:
        if "gone" in url:
            raise WebError("there is no such page")
        return WebPage(url=url, title="A title", content="text of the page " * 20)


@pytest.fixture(scope="module")
def client() -> Iterator[anthropic.Anthropic]:
    web = WebAccess(_Provider(), _Fetcher())
    spec = msgspec.structs.replace(SPEC, load="tests.api.test_web_search:load")
    with running_server(engine={}, engines=(spec,), web=web) as server:
        server.call(lambda runtime: server.world.add("tiny", data=WEIGHTS))
        with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
            yield client


def asked(text: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": text}]
    return {"model": "tiny", "max_tokens": 900, "messages": said, "tools": [SEARCH], **more}


def answers(client: anthropic.Anthropic, **fields: Any) -> list[Any]:
    """The same answer as a whole and from a stream."""
    with client.messages.stream(**fields) as stream:
        final = stream.get_final_message()
    return [client.messages.create(**fields), final]


def test_a_search_within_an_answer(client: anthropic.Anthropic) -> None:
    """What was said, the search, its results, and what the model makes of them are blocks of one message."""
    for answer in answers(client, **asked("question")):
        said, use, found, last = answer.content
        assert (said.text, last.text, answer.stop_reason) == ("Let me look.", "It is a model server.", "end_turn")
        assert (use.type, use.name, use.input) == ("server_tool_use", "web_search", {"query": "corral"})
        assert use.id.startswith("srvtoolu_")
        assert (found.type, found.tool_use_id) == ("web_search_tool_result", use.id)
        [page] = found.content
        assert (page.title, page.url, page.encrypted_content) == (
            "A page",
            "https://a.example/x",
            "page about corral",
        )
        assert answer.usage.server_tool_use.web_search_requests == 1


def test_the_conversation_goes_on(client: anthropic.Anthropic) -> None:
    """What the client has got is accepted as a message of the conversation, and counted."""
    answer = client.messages.create(**asked("question"))
    turns: Any = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "thanks"},
    ]
    more = client.messages.create(**{**asked(""), "messages": turns})
    assert [block.text for block in more.content if block.type == "text"] == ["You are welcome."]
    assert more.usage.server_tool_use is not None
    assert more.usage.server_tool_use.web_search_requests == 0
    counted = client.messages.count_tokens(model="tiny", messages=turns, tools=[SEARCH]).input_tokens
    assert counted == more.usage.input_tokens + (more.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize(
    ("text", "codes", "last", "made"),
    [
        ("broken", ["unavailable"], "I cannot look.", 0),
        ("greedy", [None, "max_uses_exceeded"], "That is all.", 1),
    ],
)
def test_searches_that_fail(
    client: anthropic.Anthropic, text: str, codes: list[str | None], last: str, made: int
) -> None:
    """The results have the vendor's code, the model reads of it, and only searches that were made count."""
    for answer in answers(client, **asked(text)):
        results = [block.content for block in answer.content if block.type == "web_search_tool_result"]
        assert [getattr(one, "error_code", None) for one in results] == codes
        assert answer.content[-1].text == last
        assert answer.usage.server_tool_use.web_search_requests == made


def test_a_page_is_fetched_within_an_answer(client: anthropic.Anthropic) -> None:
    """Its text is a document, cut as the client asks; what comes back continues the conversation."""
    asking_for = asked("read https://a.example/doc", tools=[SEARCH, FETCH])
    for answer in answers(client, **asking_for):
        use, fetched, last = answer.content
        assert (use.name, use.input) == ("web_fetch", {"url": "https://a.example/doc"})
        assert (fetched.type, fetched.tool_use_id) == ("web_fetch_tool_result", use.id)
        document = fetched.content.content
        assert (fetched.content.url, document.title) == ("https://a.example/doc", "A title")
        assert document.source.data == "text of the page tex"
        assert last.text == "It is a page."
        assert answer.usage.server_tool_use.web_fetch_requests == 1
        turns = [*asking_for["messages"], {"role": "assistant", "content": answer.content}]
        turns.append({"role": "user", "content": "thanks"})
        response = client.messages.with_raw_response.create(**{**asking_for, "messages": turns})
        assert response.parse().usage.input_tokens > 0
        assert "x-corral-ignored" not in response.headers


@pytest.mark.parametrize(
    ("text", "code"),
    [("read https://a.example/gone", "url_not_accessible"), ("read nothing", "url_not_in_prior_context")],
)
def test_pages_that_are_not_fetched(client: anthropic.Anthropic, text: str, code: str) -> None:
    """The result has the vendor's code, and the model reads of it."""
    for answer in answers(client, **asked(text, tools=[FETCH])):
        [result] = [block.content for block in answer.content if block.type == "web_fetch_tool_result"]
        assert result.error_code == code
        assert answer.content[-1].text == "I cannot read it."
        assert answer.usage.server_tool_use.web_fetch_requests == 0


def test_calls_of_the_client_beside_a_search(client: anthropic.Anthropic) -> None:
    """The turn ends with the call, and has the result of the search as well; what comes back continues it."""
    for answer in answers(client, **asked("both", tools=[SEARCH, TOOL])):
        assert answer.stop_reason == "tool_use"
        kinds = [block.type for block in answer.content]
        assert sorted(kinds) == ["server_tool_use", "tool_use", "web_search_tool_result"]
        [call] = [block for block in answer.content if block.type == "tool_use"]
        assert call.input == {"city": "Paris"}
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "thanks"}
        turns: Any = [
            {"role": "user", "content": "both"},
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ]
        more = client.messages.create(**asked("", tools=[SEARCH, TOOL], messages=turns))
        assert more.content[-1].text == "You are welcome."


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_searched_by_default(shared_server: Any, stream: bool) -> None:
    """The error names the setting, before anything runs."""
    with anthropic.Anthropic(base_url=shared_server.url, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.PermissionDeniedError, match=r"set web\.search") as refused:
            client.messages.create(**{**asked("hi", stream=stream), "model": "smol:q4"})
        body: Any = refused.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "permission_error")


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ([{**SEARCH, "allowed_domains": ["a.example"], "blocked_domains": ["b.example"]}], "exclude each other"),
        ([{**SEARCH, "max_uses": 0}], "max_uses must be a positive integer"),
        ([{**SEARCH, "blocked_domains": "b.example"}], "blocked_domains is not a list of domains"),
        ([SEARCH, {**SEARCH, "type": "web_search_20260209"}], "is there twice"),
        ([{**SEARCH, "name": "search"}], 'is "web_search"'),
        ([{**FETCH, "max_content_tokens": "1"}], "max_content_tokens must be a positive integer"),
        ([SEARCH, {**TOOL, "name": "web_search"}], "two tools named 'web_search'"),
    ],
)
def test_what_is_refused(client: anthropic.Anthropic, tools: Any, text: str) -> None:
    """Contradictions are 400 and say what is wrong."""
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**asked("question", tools=tools))
    assert text in json.dumps(refused.value.body, ensure_ascii=False).replace('\\"', '"')


def test_what_of_the_tool_has_no_effect_is_named(client: anthropic.Anthropic) -> None:
    """Where the user is, for example: search services are not told."""
    tools: Any = [{**SEARCH, "user_location": {"type": "approximate", "city": "Bonn"}}]
    response = client.messages.with_raw_response.create(**asked("thanks", tools=tools))
    assert response.headers["x-corral-ignored"] == "tools.user_location"
