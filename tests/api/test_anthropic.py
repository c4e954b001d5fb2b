"""``/v1/messages`` with the official ``anthropic`` client, unmodified."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from corral.api.http import pings
from corral.api.http.anthropic.blocks import read_messages
from corral.core.requests.calls import ChatCall
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import running_server
from tests.api.test_tools import CALL, PARAMETERS, WEIGHTS

MODEL = "smol:q4"
ANSWER = "the quick answer is: no"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"name": "weather", "description": "The weather", "input_schema": PARAMETERS}
THINKER = gguf_bytes(
    {**SMALL_MODEL, "tokenizer.chat_template": "{{ messages[-1].content }}{% if false %}<think></think>{% endif %}"}
)
PARROT = gguf_bytes(
    {
        **SMALL_MODEL,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.role }}={{ m.content }}"
        "{% for c in m.tool_calls or [] %}({{ c.function.name }}:{{ c.function.arguments | tojson }}){% endfor %};"
        "{% endfor %}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}",
    }
)


def connected(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Any]:
    """One of this file's own: models stay loaded in it that tests of others do not expect."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(shared_server: Any) -> Iterator[anthropic.Anthropic]:
    with connected(shared_server.url) as client:
        yield client


@pytest.fixture(scope="module")
def caller() -> Iterator[anthropic.Anthropic]:
    """A model that says something and calls a tool twice."""
    with running_server(engine={"answer": f"Let me see.\n{CALL}\n{CALL}"}) as server:
        server.call(lambda runtime: server.world.add("caller", data=WEIGHTS))
        with connected(server.url) as client:
            yield client


def message(client: anthropic.Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": MODEL, "max_tokens": 400, "messages": HELLO, **fields})


def test_an_answer(client: anthropic.Anthropic) -> None:
    """Text, reason, usage and the model's name as it was sent; the prompt's tokens are those computed and cached."""
    whole = message(client, system="Be brief.", metadata={"user_id": "me"})
    assert [block.text for block in whole.content] == [ANSWER]
    assert (whole.role, whole.model, whole.stop_reason, whole.stop_sequence) == ("assistant", MODEL, "end_turn", None)
    usage = whole.usage
    counted = client.messages.count_tokens(model=MODEL, system="Be brief.", messages=HELLO)
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens
    assert usage.output_tokens > 0
    assert whole.id.startswith("msg_")


def test_why_it_ended(client: anthropic.Anthropic) -> None:
    """At the limit, at a stop sequence of the client's, which is named, or by itself."""
    cut = message(client, max_tokens=2)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    stopped = message(client, stop_sequences=["nothing", "answer"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "answer")
    assert stopped.content[0].text == "the quick "
    streamed = client.messages.stream(model=MODEL, max_tokens=50, messages=HELLO, stop_sequences=["answer"])
    with streamed as stream:
        assert stream.get_final_message().stop_sequence == "answer"


def test_a_stream(client: anthropic.Anthropic) -> None:
    """The client's own helper rebuilds the message; the events come in the vendor's order."""
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert (final.stop_reason, final.content[0].type) == ("end_turn", "text")
    assert final.usage.output_tokens == message(client).usage.output_tokens
    raw = {"model": MODEL, "max_tokens": 100, "messages": HELLO, "stream": True}
    lines = httpx.post(f"{client.base_url}/v1/messages", json=raw).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_tools_are_called(caller: anthropic.Anthropic) -> None:
    """Three rounds with a tool that is really called, streamed and not; one call at a time if that is wanted."""
    messages = list(HELLO)
    for _ in range(3):
        answer = message(caller, model="caller", messages=messages, tools=[TOOL])
        assert answer.stop_reason == "tool_use"
        assert [block.type for block in answer.content] == ["text", "tool_use", "tool_use"]
        calls = [block for block in answer.content if block.type == "tool_use"]
        assert [call.input for call in calls] == [{"city": "Paris"}] * 2
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    with caller.messages.stream(model="caller", max_tokens=400, messages=messages, tools=[TOOL]) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in final.content if block.type == "tool_use"] == [{"city": "Paris"}] * 2
    one: Any = {"type": "auto", "disable_parallel_tool_use": True}
    answer = message(caller, model="caller", tools=[TOOL], tool_choice=one)
    assert [block.type for block in answer.content] == ["text", "tool_use"]
    answer = message(caller, model="caller", tools=[TOOL], tool_choice={"type": "tool", "name": "weather"})
    assert answer.content[0].input["city"] in ("Paris", "Bonn")
    answer = message(caller, model="caller", tools=[TOOL], tool_choice={"type": "none"})
    assert [block.type for block in answer.content] == ["text"]


def test_tool_input_is_streamed(caller: anthropic.Anthropic) -> None:
    """Input comes in pieces as it is written. Cut off by the limit, it ends there; a call that breaks is an error."""
    asked: Any = {"model": "caller", "messages": HELLO, "tools": [TOOL], "stream": True}
    for limit in (*range(50, 160, 9), 400):
        inputs: dict[int, list[str]] = {}
        for event in caller.messages.create(**asked, max_tokens=limit):
            if event.type == "content_block_start" and event.content_block.type == "tool_use":
                assert event.content_block.input == {}
                inputs[event.index] = []
            elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                inputs[event.index].append(event.delta.partial_json)
            elif event.type == "message_delta":
                reason = event.delta.stop_reason
        whole = json.dumps({"city": "Paris"})
        assert all(whole.startswith("".join(pieces)) for pieces in inputs.values())
        if not inputs or "".join([*inputs.values()][-1]) != whole:
            assert reason == "max_tokens"
    assert reason == "tool_use"
    assert ["".join(pieces) for pieces in inputs.values()] == [whole, whole]
    with (
        pytest.raises(anthropic.APIStatusError, match=r"call of .*weather.* cannot be completed"),
        caller.messages.stream(
            model="caller", max_tokens=400, messages=HELLO, tools=[TOOL], stop_sequences=["is"]
        ) as stream,
    ):
        stream.until_done()


def test_thinking() -> None:
    """Thinking is a block of its own and counted; it can be switched off; who cannot think is not asked to."""
    with running_server(engine={"answer": "<think>\nhm hm\n</think>\n\nyes"}) as server:
        server.call(lambda runtime: server.world.add("thinker", data=THINKER))
        with connected(server.url) as client:
            whole = message(client, model="thinker", thinking={"type": "enabled", "budget_tokens": 1024})
            assert [block.type for block in whole.content] == ["thinking", "text"]
            assert (whole.content[0].thinking, whole.content[1].text) == ("hm hm\n", "yes")
            assert 0 < whole.usage.output_tokens_details.thinking_tokens < whole.usage.output_tokens
            with client.messages.stream(model="thinker", max_tokens=400, messages=HELLO) as stream:
                assert [block.type for block in stream.get_final_message().content] == ["thinking", "text"]
            off = message(client, model="thinker", thinking={"type": "disabled"})
            assert [block.type for block in off.content] == ["text"]
            turns = [*HELLO, {"role": "assistant", "content": whole.content}, *HELLO]
            assert message(client, model="thinker", messages=turns).content[1].text == "yes"
            response = client.messages.with_raw_response.create(
                model=MODEL, max_tokens=50, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 2000}
            )
            assert response.headers["x-corral-ignored"] == "thinking"


def test_structured_output(client: anthropic.Anthropic) -> None:
    """The answer fits the schema of `output_config`."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = message(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert isinstance(json.loads(answer.content[0].text)["ok"], bool)


def test_what_has_no_effect_is_named(shared_server: Any, client: anthropic.Anthropic) -> None:
    """Fields that nothing uses stand in a header and in the answer; marks for the cache need none to work."""
    shared_server.call(lambda runtime: shared_server.world.add("handy", data=WEIGHTS))
    tools: Any = [{**TOOL, "input_examples": [{"city": "Bonn"}]}]
    block: Any = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    response = client.messages.with_raw_response.create(
        model="handy",
        max_tokens=50,
        system=[block],
        messages=[{"role": "user", "content": [block]}],
        metadata={"user_id": "me"},
        service_tier="auto",
        tools=tools,
        extra_body={"options": {"mirostat": 2}},
    )
    named = {"metadata", "service_tier", "tools.input_examples", "mirostat"}
    assert set(response.headers["x-corral-ignored"].split(", ")) == named
    assert set((response.parse().model_extra or {})["corral"]["ignored"]) == named


TEXT = {"type": "text", "text": "T"}
USE = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bonn"}}
SEARCH = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "s1",
    "content": [{"type": "web_search_result", "title": "Page", "url": "http://p", "encrypted_content": "body"}],
}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": "a"}, {"role": "user", "content": [TEXT]}], "user=a\n\nT;"),
        ([{"role": "user", "content": [TEXT, {"type": "text", "text": "U"}]}], "user=T\n\nU;"),
        (
            [
                {"role": "assistant", "content": [TEXT, USE]},
                {"role": "user", "content": [TEXT, {"type": "tool_result", "tool_use_id": "c1", "content": [TEXT]}]},
            ],
            'assistant=T(weather:{"city": "Bonn"});tool=T;user=T;',
        ),
        (
            [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "is_error": True}]}],
            "tool=Error: ;",
        ),
        (
            [{"role": "assistant", "content": [TEXT, SEARCH, FOUND, TEXT]}, {"role": "user", "content": "go"}],
            'assistant=T(web_search:{"query": "q"});tool=Page\nhttp://p\nbody;assistant=T;user=go;',
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "document", "title": "D", "source": {"type": "text", "data": "x"}},
                        {"type": "search_result", "title": "S", "source": "http://s", "content": [TEXT]},
                        {"type": "redacted_thinking", "data": "?"},
                    ],
                }
            ],
            "user=D\nx\n\nS\nhttp://s\nT;",
        ),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "system=s;user=u;"),
    ],
)
def test_what_the_model_reads(shared_server: Any, messages: Any, prompt: str) -> None:
    """Blocks become the turns that its template writes: results before the text beside them, searches in between."""
    shared_server.call(lambda runtime: shared_server.world.add("parrot", data=PARROT))
    call = ChatCall(model="parrot", messages=read_messages(messages))
    _, text = shared_server.call(lambda runtime: runtime.inference.render(call))
    assert text == prompt


PIXEL = base64.b64encode(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").decode()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": []}, "messages is required"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"model": ""}, "model is required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\]: unexpected role \"robot\""),
        ({"messages": [{"role": "user", "content": 3}]}, "content is neither a text nor a list of blocks"),
        ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, 'type "poem" is not supported'),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text is missing or not a text"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "x", "input": {}}]}]},
            "tool_use block missing required 'id' field",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "%"}}]}]},
            "the image is not base64",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": PIXEL}}]}
                ]
            },
            "does not support image",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
            'documents of the type "base64" are not supported',
        ),
        ({"system": [{"type": "image"}]}, r"system\[0\] is not a text block"),
        ({"tools": [{"name": "x"}]}, 'invalid input_schema for tool "x"'),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 'tools of the type "bash_20250124"'),
        ({"tools": [{"input_schema": {}}]}, r"tools\[0\] has no name"),
        ({"tool_choice": {"type": "tool"}}, "invalid tool_choice"),
        ({"thinking": {"type": "hard"}}, "thinking.type must be"),
        ({"thinking": {"type": "enabled", "budget_tokens": "all"}}, "budget_tokens must be a positive integer"),
        ({"output_config": {"effort": "some"}}, "output_config.effort must be one of"),
        ({"output_config": {"format": {"type": "poem"}}}, "output_config.format must be"),
        ({"extra_body": {"temperature": "hot"}}, "cannot unmarshal string"),
    ],
)
def test_what_is_refused(client: anthropic.Anthropic, fields: dict[str, Any], text: str) -> None:
    """A bad field is 400 in the client's own error class, with a text that names it."""
    with pytest.raises(anthropic.BadRequestError, match=text) as caught:
        message(client, **fields)
    body: Any = caught.value.body
    assert body["error"]["type"] == "invalid_request_error"
    assert body["request_id"] == caught.value.response.headers["request-id"]


def test_errors(client: anthropic.Anthropic) -> None:
    """Unknown models, paths and methods have Anthropic's envelope."""
    with pytest.raises(anthropic.NotFoundError, match="model 'nobody' not found") as caught:
        message(client, model="nobody")
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    unknown = httpx.get(f"{client.base_url}/v1/messages/nothing")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "error")
    assert httpx.get(f"{client.base_url}/v1/messages").json()["error"]["type"] == "invalid_request_error"


def test_an_error_in_a_stream() -> None:
    """It arrives as an event that the client raises, and the stream ends."""
    with running_server(engine={"answer": ANSWER, "fail_after": 4}) as server, connected(server.url) as client:
        with (
            pytest.raises(anthropic.APIError, match="configured to fail"),
            client.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream,
        ):
            list(stream)
        assert server.active() == 0


def test_models(client: anthropic.Anthropic) -> None:
    """Models are listed in the shape of the caller's API, on the path that OpenAI's clients use as well."""
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve("library/smol:q4").type == "model"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no/such")


def test_a_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is to be told, pings keep the connection; the client sees the answer only."""
    monkeypatch.setattr(pings, "PERIOD_S", 0.02)
    with running_server(engine={"answer": "a b", "step_delay_s": 0.1}) as server, connected(server.url) as client:
        raw = {"model": MODEL, "max_tokens": 50, "messages": HELLO, "stream": True}
        said = httpx.post(f"{server.url}/v1/messages", json=raw).text
        assert said.count("event: ping") > 2
        with client.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
            assert stream.get_final_message().content[0].text == "a b"  # type: ignore[union-attr]


def test_counts_are_exact(shared_server: Any, client: anthropic.Anthropic) -> None:
    """For 50 conversations with tools, what is counted is what the model gets."""
    chance = random.Random(3)
    words = ["rain", "Bonn", "ü", "🙂", "<tag>", "a b  c", "\n"]
    shared_server.call(lambda runtime: shared_server.world.add("parrot", data=PARROT))
    for _ in range(50):
        turns: list[Any] = []
        for number in range(chance.randint(1, 5)):
            turns.append({"role": "user", "content": " ".join(chance.choices(words, k=chance.randint(1, 20)))})
            if chance.random() < 0.5:
                use = {"type": "tool_use", "id": f"c{number}", "name": "weather", "input": {"city": "Bonn"}}
                turns.append({"role": "assistant", "content": [{"type": "text", "text": "well"}, use]})
                result = {"type": "tool_result", "tool_use_id": f"c{number}", "content": "sunny"}
                turns.append({"role": "user", "content": [result]})
            turns.append({"role": "assistant", "content": "so"})
        turns.append({"role": "user", "content": "and?"})
        tools = [TOOL] * chance.randint(0, 2)
        counted = client.messages.count_tokens(model="parrot", messages=turns, tools=tools, system="S")
        usage = message(client, model="parrot", messages=turns, tools=tools, system="S", max_tokens=1).usage
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_counting_does_not_cut(shared_server: Any, client: anthropic.Anthropic) -> None:
    """A prompt that does not fit into the context is counted as a whole."""
    small = {"options": {"num_ctx": 64}}
    turns: list[Any] = [{"role": "user", "content": "word " * 50}, {"role": "assistant", "content": "x"}, *HELLO]
    count = client.messages.count_tokens(model=MODEL, messages=turns, extra_body=small).input_tokens
    assert count == client.messages.count_tokens(model=MODEL, messages=turns).input_tokens


def test_it_can_be_awaited(shared_server: Any) -> None:
    """The vendor's asynchronous client works as well."""

    async def ask() -> str:
        async with anthropic.AsyncAnthropic(base_url=shared_server.url, api_key="none", max_retries=0) as client:
            answer = await client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
            return answer.content[0].text  # type: ignore[union-attr]

    assert asyncio.run(ask()) == ANSWER
