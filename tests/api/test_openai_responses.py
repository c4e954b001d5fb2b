"""``/v1/responses`` with the official ``openai`` client, unmodified."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from corral.adapters.authenticators.key_file import KeyFile
from corral.adapters.authenticators.keys import KeyAuthenticator
from corral.adapters.authenticators.settings import KeysSettings
from corral.api.http.content_encoding import zstd_module
from corral.core.requests.principal import Principal
from corral.plugins.response_store import response_store
from corral.plugins.settings.responses import ResponsesSettings
from corral.plugins.testing.images import png_bytes
from tests.api.conftest import LiveServer, running_server
from tests.api.test_openai_chat import ANSWER, MODEL, THINKER
from tests.api.test_tools import CALL, PARAMETERS, WEIGHTS

DOC = (Path(__file__).parents[2] / "docs" / "openai.md").read_text(encoding="utf-8")
TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
THOUGHT = "<think>\nhm hm\n</think>\n\nyes"


@pytest.fixture(scope="module")
def client(shared_server: Any) -> Iterator[openai.OpenAI]:
    with connected(shared_server) as client:
        yield client


@pytest.fixture(scope="module")
def caller() -> Iterator[openai.OpenAI]:
    """A model that calls a tool twice."""
    with running_server(engine={"answer": f"Let me see.\n{CALL}\n{CALL}"}) as server:
        server.call(lambda runtime: server.world.add("caller", data=WEIGHTS))
        with connected(server) as client:
            yield client


@pytest.fixture(scope="module")
def thinker() -> Iterator[openai.OpenAI]:
    with running_server(engine={"answer": THOUGHT}) as server:
        server.call(lambda runtime: server.world.add("thinker", data=THINKER))
        with connected(server) as client:
            yield client


@contextmanager
def connected(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def respond(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{"model": MODEL, "input": "hello", **fields})


def items_of(client: openai.OpenAI, id: Any, **query: Any) -> Any:
    return client.responses.input_items.list(id, **query)


def retrieved(client: openai.OpenAI, id: str, **query: Any) -> Any:
    return client.responses.retrieve(id, **query)


def test_an_answer(client: openai.OpenAI) -> None:
    """Text, status, usage, the model's name and the fields of the request as they were sent."""
    whole = respond(client, metadata={"a": "b"}, instructions="Be brief.", max_output_tokens=100, temperature=0.5)
    assert (whole.output_text, whole.status, whole.object, whole.model) == (ANSWER, "completed", "response", MODEL)
    [item] = whole.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    assert whole.usage.input_tokens_details.cached_tokens >= 0
    assert whole.usage.output_tokens_details.reasoning_tokens == 0
    assert (whole.metadata, whole.instructions, whole.max_output_tokens) == ({"a": "b"}, "Be brief.", 100)
    assert (whole.temperature, whole.top_p, whole.truncation, whole.tool_choice) == (0.5, 1.0, "disabled", "auto")
    assert whole.completed_at >= whole.created_at
    assert (whole.error, whole.incomplete_details) == (None, None)


def test_an_answer_that_is_cut(client: openai.OpenAI) -> None:
    """It is incomplete, and says why, whole and as a stream."""
    cut = respond(client, max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (cut.usage.output_tokens, cut.output[0].status) == (2, "incomplete")
    last = list(respond(client, max_output_tokens=2, stream=True))[-1]
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


def test_a_stream(client: openai.OpenAI) -> None:
    """The vendor's events in its order, numbered, and at the end the response that could be had whole."""
    events = list(respond(client, stream=True))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert events[0].response.status == "in_progress"
    final = events[-1].response
    assert (final.id, final.output_text) == (events[0].response.id, ANSWER)
    assert client.responses.retrieve(final.id).model_dump() == final.model_dump()


def test_the_helper_for_streams(caller: openai.OpenAI) -> None:
    """The client's own accumulation of a stream with text and two calls equals the response."""
    with caller.responses.stream(model="caller", input="hi", tools=[TOOL]) as stream:
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert final.output_text.strip() == "Let me see."
    assert caller.responses.retrieve(final.id).output_text == final.output_text


def test_structured_output(client: openai.OpenAI) -> None:
    """The client's own helper gets an object of its class; JSON without a schema works as well."""

    class Verdict(BaseModel):
        ok: bool

    parsed = client.responses.parse(model=MODEL, input="hello", text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict)
    json.loads(respond(client, text={"format": {"type": "json_object"}}, max_output_tokens=40).output_text)


def test_tools_are_called(caller: openai.OpenAI) -> None:
    """Three rounds with a tool that is really called, by the id of the last response, and by all items sent again."""
    items: Any = [{"role": "user", "content": "hi"}]
    previous = None
    for _ in range(3):
        response = respond(caller, model="caller", input=items, tools=[TOOL], previous_response_id=previous)
        calls = [item for item in response.output if item.type == "function_call"]
        assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}] * 2
        assert len({call.call_id for call in calls}) == 2
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
        if previous is None:
            again = respond(caller, model="caller", input=[*items, *response.output, *results], tools=[TOOL])
            assert again.status == "completed"
        previous, items = response.id, results
    kept = items_of(caller, previous, order="asc", limit=100)
    assert [item.type for item in kept] == [
        "message",
        *["message", "function_call", "function_call", "function_call_output", "function_call_output"] * 2,
    ]
    single = respond(caller, model="caller", tools=[TOOL], parallel_tool_calls=False)
    assert [item.type for item in single.output].count("function_call") == 1
    forced = respond(caller, model="caller", tools=[TOOL], tool_choice={"type": "function", "name": "weather"})
    assert json.loads(forced.output[0].arguments)["city"] in ("Paris", "Bonn")
    assert [item.type for item in respond(caller, model="caller", tools=[TOOL], tool_choice="none").output] == [
        "message"
    ]


def test_tools_in_a_namespace(caller: openai.OpenAI) -> None:
    """The model knows a function by both names, and the client gets them apart."""
    space: Any = {"type": "namespace", "name": "sky", "description": "", "tools": [TOOL]}
    choice: Any = {"type": "function", "name": "sky.weather"}
    response = respond(caller, model="caller", tools=[space], tool_choice=choice)
    call = response.output[0]
    assert (call.name, call.namespace) == ("weather", "sky")
    result: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": [{"type": "input_text", "text": "x"}],
    }
    again = respond(caller, model="caller", tools=[space], input=[result], previous_response_id=response.id)
    assert again.status == "completed"


def test_thinking(thinker: openai.OpenAI) -> None:
    """Thinking is an item of its own, its tokens are counted, and it may be sent back; `effort` switches it off."""
    whole = respond(thinker, model="thinker", include=["reasoning.encrypted_content"])
    reasoning, message = whole.output
    assert (reasoning.type, reasoning.summary[0].text, reasoning.encrypted_content) == (
        "reasoning",
        "hm hm\n",
        "hm hm\n",
    )
    assert (message.content[0].text, whole.output_text) == ("yes", "yes")
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
    events = list(respond(thinker, model="thinker", stream=True))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds[2:6] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
    ]
    thought = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(thought) == "hm hm\n"
    question = {"role": "user", "content": "and?"}
    again = respond(thinker, model="thinker", input=[*whole.output, question], reasoning={"effort": "none"})
    assert again.output_text.startswith("<think>")
    with pytest.raises(openai.BadRequestError, match="invalid reasoning value"):
        respond(thinker, model="thinker", reasoning={"effort": "some"})


def test_logprobs(client: openai.OpenAI) -> None:
    """They come if `include` asks for them, in the item and in the events."""
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    [message] = respond(client, **asked).output
    entries = message.content[0].logprobs
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == ANSWER
    assert len(entries[0].top_logprobs) == 2
    events = list(respond(client, stream=True, **asked))
    told = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert [entry.token for entry in told] == [entry.token for entry in entries][: len(told)]
    assert respond(client).output[0].content[0].logprobs == []


def test_a_response_goes_on(client: openai.OpenAI) -> None:
    """What was said before is part of the prompt, the instructions are not; deleting the first leaves the second."""
    first = respond(client, instructions="Once.")
    second = respond(client, input="go on", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    items = list(items_of(client, second.id, order="asc"))
    assert [(item.type, item.role) for item in items] == [
        ("message", "user"),
        ("message", "assistant"),
        ("message", "user"),
    ]
    assert items[2].content[0].text == "go on"
    assert items[1].id == first.output[0].id
    client.responses.delete(first.id)
    assert respond(client, input="and on", previous_response_id=second.id).status == "completed"
    with pytest.raises(openai.BadRequestError, match="not found") as caught:
        respond(client, previous_response_id=first.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_long_conversation_goes_on(client: openai.OpenAI) -> None:
    """One that is far larger than the context is kept as a whole, and cut for the model only."""
    turns = [{"role": "user", "content": "word " * 700} for _ in range(40)]
    first = respond(client, input=turns, truncation="auto")
    second = respond(client, input="go on", previous_response_id=first.id, truncation="auto")
    assert second.status == "completed"
    assert len(list(items_of(client, second.id, limit=100))) == 42


def test_input_tokens_are_counted(client: openai.OpenAI) -> None:
    """They are those that the response then has, also with what was said before and the functions."""
    first = respond(client)
    fields: Any = {"model": MODEL, "input": "go on", "previous_response_id": first.id, "instructions": "Be brief."}
    counted = client.responses.input_tokens.count(**fields)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == client.responses.create(**fields).usage.input_tokens
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
        client.responses.input_tokens.count(model="nobody", input="hi")


def test_a_stored_response(client: openai.OpenAI) -> None:
    """It is found as it was, and gone once it is deleted; one that was not to be stored never is."""
    response = respond(client)
    assert client.responses.retrieve(response.id) == response
    client.responses.delete(response.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{response.id}' not found"):
            ask(response.id)
    unstored = respond(client, store=False)
    assert unstored.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_response_belongs_to_its_key(tmp_path: Path) -> None:
    """With another key it does not exist: neither to be read, nor deleted, nor gone on from."""
    file = KeyFile(tmp_path / "keys.json")
    keys = [asyncio.run(file.create(Principal(name=name))) for name in ("ada", "bob")]
    with running_server(authenticator=KeyAuthenticator(KeysSettings(file=str(file.path)))) as server:
        ada, bob = (openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) for key in keys)
        with ada, bob:
            response = respond(ada)
            for ask in (bob.responses.retrieve, bob.responses.delete, bob.responses.input_items.list):
                with pytest.raises(openai.NotFoundError):
                    ask(response.id)
            with pytest.raises(openai.BadRequestError, match="not found"):
                respond(bob, previous_response_id=response.id)
            assert ada.responses.retrieve(response.id) == response


def test_responses_survive_a_restart(tmp_path: Path) -> None:
    """In files, they do; a damaged one is answered as one that does not exist. A larger one than all says so."""
    settings = ResponsesSettings(folder=str(tmp_path / "kept"), max_bytes=4096)
    with running_server(responses=response_store(settings)) as server, connected(server) as client:
        response = respond(client)
        big = respond(client, input="word " * 1000)
        assert big.store is False
        assert "responses.max_bytes" in big.model_extra["corral"]["warnings"][0]
    with running_server(responses=response_store(settings)) as server, connected(server) as client:
        assert client.responses.retrieve(response.id) == response
        again = respond(client, input="go on", previous_response_id=response.id)
        for kept in (tmp_path / "kept").iterdir():
            kept.write_bytes(kept.read_bytes()[:-1])
        for id in (response.id, again.id):
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(id)


def test_a_server_that_keeps_none(tmp_path: Path) -> None:
    """It says so: in the response, about `store`, and to whoever wants to go on."""
    with (
        running_server(responses=response_store(ResponsesSettings(store="off"))) as server,
        connected(server) as client,
    ):
        assert respond(client).store is False
        told = respond(client, store=True)
        assert (told.store, told.model_extra["corral"]["ignored"]) == (False, ["store"])
        with pytest.raises(openai.BadRequestError, match=r"responses\.store"):
            respond(client, previous_response_id="resp_1")
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_1")


def test_a_disk_that_cannot_be_written_to(tmp_path: Path) -> None:
    """The answer comes all the same, and says that it is not stored."""
    (tmp_path / "kept").write_text("")
    settings = ResponsesSettings(folder=str(tmp_path / "kept"))
    with running_server(responses=response_store(settings)) as server, connected(server) as client:
        final = list(respond(client, stream=True))[-1].response
        assert (final.output_text, final.store) == (ANSWER, False)
        assert "cannot keep a response" in final.model_extra["corral"]["warnings"][0]


def test_pages_of_input_items(client: openai.OpenAI) -> None:
    """The newest first unless asked otherwise; the client goes from page to page by itself."""
    texts = [f"t{number}" for number in range(5)]
    response = respond(client, input=[{"role": "user", "content": text} for text in texts])
    listed = functools.partial(items_of, client, response.id)
    newest = [item.content[0].text for item in listed(limit=2)]
    assert newest == texts[::-1]
    page = listed(limit=2, order="asc")
    assert (page.has_more, page.first_id, page.last_id) == (True, page.data[0].id, page.data[1].id)
    rest = listed(order="asc", after=page.last_id or "")
    assert [item.content[0].text for item in rest.data] == texts[2:]
    before = listed(order="asc", extra_query={"before": page.last_id})
    assert [item.content[0].text for item in before.data] == texts[:1]
    for query in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "x"}, {"before": "x"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(query))):
            listed(extra_query=query)


def test_what_has_no_effect_is_named(client: openai.OpenAI) -> None:
    """Fields that nothing uses, also inside of others, and options that the engine does not have."""
    response = client.responses.with_raw_response.create(
        model=MODEL,
        input="hello",
        user="me",
        text={"verbosity": "low"},
        reasoning={"summary": "auto", "context": "auto"},
        include=["file_search_call.results"],
        extra_body={"options": {"mirostat": 2}, "conversation": "c"},
    )
    named = {
        "user",
        "text.verbosity",
        "reasoning.context",
        "include.file_search_call.results",
        "mirostat",
        "conversation",
    }
    assert set(response.headers["x-corral-ignored"].split(", ")) == named
    assert set((response.parse().model_extra or {})["corral"]["ignored"]) == named
    assert "x-corral-ignored" not in client.responses.with_raw_response.create(model=MODEL, input="hello").headers


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"input": ""}, None),
        ({"input": []}, "input is required"),
        ({"input": 7}, "input must be a text or a list"),
        ({"input": ["x"]}, r"input\[0\] is not an object"),
        ({"input": [{"content": "x"}]}, "input item missing required 'type' field"),
        ({"input": [{"type": "poem"}]}, r'input\[0\]: unknown input item type: "poem"'),
        ({"input": [{"type": ["message"]}]}, "unknown input item type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "file inputs are not currently supported"),
        ({"input": [{"role": "user", "content": [{"type": "poem"}]}]}, "invalid message format"),
        ({"input": [{"type": "message", "content": "x"}]}, r"input\[0\] has no role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y"}]}]},
            "image URLs are not currently supported",
        ),
        ({"input": [{"type": "function_call", "arguments": "{}"}]}, r"input\[0\] has no name"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{"}]}, "invalid tool call arguments"),
        ({"tools": [{"type": "custom", "name": "x"}]}, 'the type "custom" is not supported'),
        ({"tools": [{"type": "namespace", "name": "x"}]}, "a namespace has a name and a list of tools"),
        ({"tool_choice": "maybe"}, "invalid tool_choice"),
        ({"text": {"format": {"type": "poem"}}}, 'text.format: the type "poem" is not supported'),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "json_schema has no schema"),
        ({"text": {"format": ["text"]}}, "text.format must be an object"),
        ({"truncation": "some"}, 'truncation is "some"'),
        ({"max_output_tokens": 0}, "max_output_tokens must be at least 1"),
        ({"top_logprobs": 30}, "top_logprobs must be between 0 and 20"),
        ({"metadata": {"x": "y" * 600}}, "keys have at most 64 characters"),
        ({"temperature": "hot"}, "cannot unmarshal string"),
        ({"previous_response_id": "../../x"}, "Previous response with id"),
    ],
)
def test_what_is_refused(client: openai.OpenAI, fields: dict[str, Any], text: str | None) -> None:
    """A bad field is 400 in the client's own error class, with a text that names it."""
    if text is None:
        assert respond(client, **fields).status == "completed"
        return
    with pytest.raises(openai.BadRequestError, match=text) as caught:
        respond(client, **fields)
    assert caught.value.type == "invalid_request_error"


def test_errors(client: openai.OpenAI) -> None:
    """Unknown models have OpenAI's envelope; an input that is too long is refused unless it may be cut."""
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found") as caught:
        respond(client, model="nobody", stream=True)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    long = [{"role": "user", "content": "word " * 3000}, {"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, input=long)
    assert refused.value.code == "context_length_exceeded"
    cut = respond(client, input=long, truncation="auto")
    assert cut.model_extra["corral"]["dropped_messages"] == 1


def test_an_error_in_a_stream() -> None:
    """It arrives as events, the stream ends, and what had come is kept as a response that has failed."""
    with running_server(engine={"answer": ANSWER, "fail_after": 4}) as server, connected(server) as client:
        events = list(respond(client, stream=True))
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]
        assert "configured to fail" in events[-2].message
        failed = events[-1].response
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        assert ANSWER.startswith(failed.output_text)
        assert failed.output_text
        assert client.responses.retrieve(failed.id).error == failed.error
        httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "keep_alive": 0})  # it fails once per load
        with pytest.raises(openai.InternalServerError, match="configured to fail"):
            respond(client)
        assert server.active() == 0


@pytest.fixture(scope="module")
def slow() -> Iterator[LiveServer]:
    """A server whose answers take a minute unless they are cut or cancelled."""
    with running_server(engine={"answer": "word " * 6000, "step_delay_s": 0.01}) as server:
        yield server


def test_a_response_in_the_background(client: openai.OpenAI, within: Any) -> None:
    """It is queued at first and completed in the end, and is then a response like any other."""
    response = respond(client, background=True)
    assert (response.status, response.background, response.output) == ("queued", True, [])
    assert within(30, lambda: retrieved(client, response.id).status == "completed")
    done = retrieved(client, response.id)
    assert (done.output_text, done.usage.output_tokens > 0) == (ANSWER, True)
    assert client.responses.cancel(response.id) == done
    assert respond(client, input="and?", previous_response_id=response.id).status == "completed"
    assert [item.role for item in items_of(client, response.id)] == ["user"]


def test_a_background_that_cannot_be(client: openai.OpenAI) -> None:
    """What is wrong with the request is said at once; what goes wrong later is said by the response."""
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found"):
        respond(client, model="nobody", background=True)
    with pytest.raises(openai.BadRequestError, match="only a response that is stored"):
        respond(client, background=True, store=False)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(respond(client).id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_1")


def test_a_background_that_fails(client: openai.OpenAI, within: Any) -> None:
    """The response says why, and its stream ends with it."""
    response = respond(client, background=True, extra_body={"engine": "nothing"})
    assert within(30, lambda: retrieved(client, response.id).status == "failed")
    failed = retrieved(client, response.id)
    assert "nothing" in failed.error.message
    events = list(respond(client, background=True, stream=True, extra_body={"engine": "nothing"}))
    assert [event.type for event in events] == ["response.created", "response.queued", "error", "response.failed"]


def test_a_background_is_cancelled(slow: LiveServer, within: Any) -> None:
    """The generation ends, what had come stays, and cancelling again changes nothing; so does deleting it."""
    with connected(slow) as client:
        response = respond(client, background=True)
        assert within(30, lambda: retrieved(client, response.id).status == "in_progress")
        with pytest.raises(openai.BadRequestError, match="is not finished"):
            respond(client, previous_response_id=response.id)
        cancelled = client.responses.cancel(response.id)
        assert (cancelled.status, slow.active()) == ("cancelled", 0)
        assert set(cancelled.output_text.split()) <= {"word"}
        assert retrieved(client, response.id) == cancelled == client.responses.cancel(response.id)
        other = respond(client, background=True)
        client.responses.delete(other.id)
        assert slow.active() == 0
        with pytest.raises(openai.NotFoundError):
            retrieved(client, other.id)


def test_a_background_is_followed(slow: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    """A client that has left comes back to the events it has not seen; what has ended tells its end."""
    with connected(slow) as client:
        stream = respond(client, background=True, stream=True)
        seen = [next(stream) for _ in range(6)]
        stream.close()
        id = seen[0].response.id
        assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
        with retrieved(client, id, stream=True, starting_after=seen[-1].sequence_number) as again:
            more = [next(iter(again)) for _ in range(3)]
            assert [event.sequence_number for event in more] == [6, 7, 8]
            client.responses.cancel(id)
            rest = list(again)
        assert (rest[-1].type, rest[-1].response.status) == ("response.incomplete", "cancelled")
        [last] = retrieved(client, id, stream=True, starting_after=8)
        assert (last.sequence_number, last.response.status) == (9, "cancelled")
        quiet = respond(client, background=True)
        with pytest.raises(openai.BadRequestError, match="without stream: true"):
            retrieved(client, quiet.id, stream=True)
        with pytest.raises(openai.BadRequestError, match="starting_after"):
            retrieved(client, quiet.id, stream=True, extra_query={"starting_after": "x"})
        client.responses.cancel(quiet.id)
        assert slow.active() == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_background_is_bounded(slow: LiveServer) -> None:
    """One principal cannot fill it; whatever it has begun can be cancelled."""
    with connected(slow) as client:
        begun = [respond(client, background=True).id for _ in range(16)]
        with pytest.raises(openai.RateLimitError, match="may have 16 requests in the background") as caught:
            respond(client, background=True)
        assert int(caught.value.response.headers["retry-after"]) > 0
        for id in begun:
            assert client.responses.cancel(id).status == "cancelled"
        assert slow.active() == 0


def test_a_background_that_a_restart_ends(tmp_path: Path) -> None:
    """It has failed then, and says why."""
    settings = ResponsesSettings(folder=str(tmp_path / "kept"))
    engine = {"answer": "word " * 6000, "step_delay_s": 0.01}
    with running_server(engine=engine, responses=response_store(settings)) as server, connected(server) as client:
        response = respond(client, background=True)
    with running_server(responses=response_store(settings)) as server, connected(server) as client:
        failed = retrieved(client, response.id)
        assert (failed.status, failed.error.message) == ("failed", "the server that computed the response has stopped")


def test_images(shared_server: Any) -> None:
    """An image goes to the model; one that cannot see says so."""
    image = base64.b64encode(png_bytes()).decode()
    parts = [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{image}"},
    ]
    answer = httpx.post(
        f"{shared_server.url}/v1/responses", json={"model": MODEL, "input": [{"role": "user", "content": parts}]}
    )
    assert answer.status_code == 400
    assert "image" in answer.json()["error"]["message"]


def test_the_documented_example(shared_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs against a server at the documented address, with the documented model."""
    [example] = re.findall(r"^```python\n(.*?)^```", DOC, flags=re.DOTALL | re.MULTILINE)
    changed = example.replace("http://127.0.0.1:11435", shared_server.url).replace("smollm2-135m-instruct:q4_1", MODEL)
    assert changed.count(MODEL) == 2
    exec(compile(changed, "docs/openai.md", "exec"), {})
    assert capsys.readouterr().out.strip() == ANSWER


def test_transcriptions_are_missing(client: openai.OpenAI) -> None:
    """The client is told what is missing, in its own class of errors, whatever it sends."""
    with pytest.raises(openai.InternalServerError, match="no installed engine transcribes speech") as caught:
        client.audio.transcriptions.create(file=("a.wav", b"RIFF" * 100_000), model="whisper-1")
    assert (caught.value.status_code, caught.value.code) == (501, "unsupported")


def test_a_request_in_zstd(shared_server: Any) -> None:
    """Some coding agents compress their requests."""
    body = zstd_module().compress(json.dumps({"model": MODEL, "input": "hello"}).encode())
    answer = httpx.post(f"{shared_server.url}/v1/responses", content=body, headers={"content-encoding": "zstd"})
    assert answer.json()["output"][0]["content"][0]["text"] == ANSWER


ITEMS: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "hi"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
    {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
    {"type": "function_call_output", "call_id": "c", "output": "y"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
    {"type": "web_search_call", "results": [{"url": "u"}], "action": {"type": "search", "query": "q"}},
)
JUNK: tuple[Any, ...] = (None, -1, 1e30, "", "x", [], {}, [None], {"a": []}, True, ["x"], [{"type": "input_text"}])
FIELDS = ("instructions", "tools", "tool_choice", "text", "reasoning", "metadata", "include", "truncation", "stream")


def test_whatever_is_sent(shared_server: Any) -> None:
    """Values of any kind in any field are answered or refused; nothing is an unforeseen error."""
    chance = random.Random(7)
    with httpx.Client(base_url=f"{shared_server.url}/v1", timeout=60) as client:
        for _ in range(80):
            items = [dict(chance.choice(ITEMS)) for _ in range(chance.randint(1, 3))]
            body: dict[str, Any] = {"model": MODEL, "input": items, "max_output_tokens": 1}
            for place in (chance.choice(items), body):
                if chance.random() < 0.7:
                    place[chance.choice((*place, *FIELDS))] = chance.choice(JUNK)
            if chance.random() < 0.3:
                body["text"] = {"format": chance.choice(JUNK)}
            answer = client.post("/responses", json={**body, "model": MODEL})
            assert answer.status_code in (200, 400), (body, answer.text)
