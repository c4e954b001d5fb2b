"""Responses whose model searches the web, with OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import openai
import pytest

from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.spec import SPEC
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.web import SearchResult
from corral.core.specs.engines import LoadRequest
from corral.core.web.access import WebAccess
from corral.core.web_errors import WebError
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import running_server
from tests.api.scripted_engine import AnsweringEngine
from tests.api.test_tools import CALL, PARAMETERS
from tests.api.test_web_search import asking

SEARCH: Any = {"type": "web_search", "search_context_size": "low"}
TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
TEMPLATE = (
    "{% for one in messages %}{{ one.role }} {{ one.content }} {{ one.tool_calls | tojson if one.tool_calls }}\n"
    "{% endfor %}{{ tools | tojson if tools }}{% if false %}<tool_call></tool_call>{% endif %}"
)
WEIGHTS = gguf_bytes({**SMALL_MODEL, "llama.context_length": 4096, "tokenizer.chat_template": TEMPLATE})
URL = "https://a.example/x"
CITING = f"It is a server ([a page]({URL})), says {URL}/y and {URL}."
SCRIPT = [
    ("question", f"Let me look.\n{asking('corral')}"),
    ("broken", asking("down")),
    ("greedy", asking("more")),
    ("about more", asking("more")),
    ("both", f"{asking('corral')}\n{CALL}"),
    ("about corral", CITING),
    ("Error: the search", "I cannot look."),
    ("Error: no more searches", "That is all."),
    ("thanks", "You are welcome."),
]


class _Engine(AnsweringEngine):
    answers = SCRIPT


def load(request: LoadRequest, on_progress: OnLoadProgress) -> _Engine:
    return _Engine(msgspec.convert(request.load_options, FakeLoadOptions))


class _Provider:
    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        self.asked.append((query, max_results))
        if query == "down":
            raise WebError("it cannot be reached")
        return (SearchResult(title="A page", url=URL, content=f"about {query}"),)

    async def aclose(self) -> None:
        pass


PROVIDER = _Provider()


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    engine = msgspec.structs.replace(SPEC, load="tests.api.test_responses_search:load", runners=("thread",))
    with running_server(engine={}, engines=(engine,), web=WebAccess(PROVIDER)) as server:
        server.call(lambda runtime: server.world.add("tiny", data=WEIGHTS))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client
        assert server.active() == 0


def respond(client: openai.OpenAI, text: str, **fields: Any) -> Any:
    return client.responses.create(**{"model": "tiny", "input": text, "tools": [SEARCH], **fields})


def test_a_search_within_a_response(client: openai.OpenAI) -> None:
    """What was said, the search, and what the model makes of it are items; the text cites what it names."""
    PROVIDER.asked.clear()
    response = respond(client, "question", include=["web_search_call.action.sources"])
    said, search, last = response.output
    assert (said.content[0].text, last.content[0].text, response.status) == ("Let me look.", CITING, "completed")
    assert (search.type, search.status, search.action.type, search.action.query) == (
        "web_search_call",
        "completed",
        "search",
        "corral",
    )
    assert [source.url for source in search.action.sources] == [URL]
    cited = [CITING[one.start_index : one.end_index] for one in last.content[0].annotations]
    assert cited == [f"[a page]({URL})", URL, URL]
    assert last.content[0].annotations[0].title == "A page"
    assert PROVIDER.asked == [("corral", 3)]
    assert respond(client, "question").output[1].action.sources is None


def test_the_events_of_a_search(client: openai.OpenAI) -> None:
    """The vendor's events in its order; the client's own accumulation is the response."""
    with client.responses.stream(model="tiny", input="question", tools=[SEARCH]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    at = kinds.index("response.web_search_call.in_progress")
    assert kinds[at - 1 : at + 4] == [
        "response.output_item.added",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
        "response.output_item.done",
    ]
    assert kinds.count("response.output_text.annotation.added") == 3
    assert [item.type for item in final.output] == ["message", "web_search_call", "message"]
    assert final.output_text == "Let me look." + CITING
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == list(range(len(events)))


def test_the_conversation_goes_on(client: openai.OpenAI) -> None:
    """The model has read the results still, by the id of the response as well as with its items sent back."""
    first = respond(client, "question")
    asked, question = ({"role": "user", "content": text} for text in ("question", "thanks"))
    by_id = respond(client, "thanks", previous_response_id=first.id)
    by_items = respond(client, "", input=[asked, *first.output, question])
    without = respond(client, "", input=[asked, first.output[0], first.output[2], question])
    assert by_id.output_text == by_items.output_text == without.output_text == "You are welcome."
    tokens = [one.usage.input_tokens for one in (by_id, by_items, without)]
    assert tokens[0] == tokens[1] > tokens[2]


@pytest.mark.parametrize(
    ("text", "statuses", "last"),
    [("broken", ["failed"], "I cannot look."), ("greedy", ["completed", "failed"], "That is all.")],
)
def test_searches_that_fail(client: openai.OpenAI, text: str, statuses: list[str], last: str) -> None:
    """The item says so, the model reads of it, and goes on; so does the conversation."""
    response = respond(client, text, max_tool_calls=1)
    assert [item.status for item in response.output if item.type == "web_search_call"] == statuses
    assert response.output_text.endswith(last)
    assert respond(client, "thanks", previous_response_id=response.id).output_text == "You are welcome."


def test_calls_of_the_client_beside_a_search(client: openai.OpenAI) -> None:
    """The response ends with the call, and has the result of the search as well; what comes back continues it."""
    response = respond(client, "both", tools=[SEARCH, TOOL])
    assert sorted(item.type for item in response.output) == ["function_call", "web_search_call"]
    [call] = [item for item in response.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "thanks"}
    more = respond(client, "", input=[result], tools=[SEARCH, TOOL], previous_response_id=response.id)
    assert more.output_text == "You are welcome."


def test_a_search_in_the_background(client: openai.OpenAI, within: Any) -> None:
    """It searches as well."""
    response = respond(client, "question", background=True)
    assert within(30, lambda: client.responses.retrieve(response.id).status == "completed")
    assert "web_search_call" in [item.type for item in client.responses.retrieve(response.id).output]


def test_which_tools_are_allowed(client: openai.OpenAI) -> None:
    """A choice that leaves the search out leaves the model without it."""
    allowed: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    response = respond(client, "question", tools=[SEARCH, TOOL], tool_choice=allowed)
    assert "web_search_call" not in [item.type for item in response.output]
    allowed["tools"].append({"type": "web_search"})
    response = respond(client, "question", tools=[SEARCH, TOOL], tool_choice=allowed)
    assert "web_search_call" in [item.type for item in response.output]


@pytest.mark.parametrize("background", [False, True])
def test_nothing_is_searched_by_default(shared_server: Any, background: bool) -> None:
    """The error names the setting, before anything runs."""
    with (
        openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError, match=r"set web\.search"),
    ):
        respond(client, "hi", model="smol:q4", background=background)


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ([SEARCH, {"type": "web_search_preview"}], "by one tool"),
        ([{**SEARCH, "external_web_access": False}], "external_web_access"),
        ([{**SEARCH, "search_context_size": "huge"}], 'must be "low", "medium" or "high"'),
        ([{**SEARCH, "filters": {"allowed_domains": "a.example"}}], "not a list of domains"),
        ([{**SEARCH, "filters": 7}], "not a list of domains"),
        ([SEARCH, {**TOOL, "name": "web_search"}], "two tools named 'web_search'"),
        ([{"type": "web_search_2"}], 'the type "web_search_2" is not supported'),
    ],
)
def test_what_is_refused(client: openai.OpenAI, tools: Any, text: str) -> None:
    """What cannot be done is 400 and says what is wrong."""
    with pytest.raises(openai.BadRequestError, match=text):
        respond(client, "question", tools=tools)
