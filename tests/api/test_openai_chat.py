"""``/v1/chat/completions`` with the official ``openai`` client, unmodified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from corral.api.http.chat_messages import read_messages
from corral.api.http.errors import ApiError
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes
from tests.api.conftest import running_server
from tests.api.test_tools import CALL, PARAMETERS, WEIGHTS

MODEL = "smol:q4"
ANSWER = "the quick answer is: no"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
THINKER = gguf_bytes(
    {**SMALL_MODEL, "tokenizer.chat_template": "{{ messages[-1].content }}{% if false %}<think></think>{% endif %}"}
)


@pytest.fixture(scope="module")
def client(shared_server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def caller() -> Iterator[openai.OpenAI]:
    """A model that calls a tool twice."""
    with running_server(engine={"answer": f"Let me see.\n{CALL}\n{CALL}"}) as server:
        server.call(lambda runtime: server.world.add("caller", data=WEIGHTS))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **fields})


def test_an_answer(client: openai.OpenAI) -> None:
    """Text, reason, usage and the model's name as it was sent."""
    whole = chat(client, seed=1)
    [choice] = whole.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (ANSWER, "assistant", "stop")
    assert (whole.object, whole.model) == ("chat.completion", MODEL)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0
    assert whole.usage.completion_tokens_details.reasoning_tokens == 0
    cut = chat(client, max_completion_tokens=2, max_tokens=7)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)


def test_a_stream(client: openai.OpenAI) -> None:
    """The role comes first, the reason last, and the usage after it if it is wanted."""
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert [chunk.choices[0].delta.role for chunk in chunks[:3]] == ["assistant", None, None]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chat(client, stream=True))


def test_several_choices(client: openai.OpenAI) -> None:
    """Each choice is an answer of its own; their prompt counts once."""
    whole = chat(client, n=3, max_tokens=3)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens == 9
    assert whole.usage.prompt_tokens == chat(client).usage.prompt_tokens
    texts = ["", "", ""]
    reasons = {}
    for chunk in chat(client, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    assert texts == [ANSWER] * 3
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}
    with pytest.raises(openai.BadRequestError, match="n must be between 1 and 128"):
        chat(client, n=1000)


def test_choices_differ_with_a_seed() -> None:
    """Whoever states the seed, the model or the request: it makes all choices repeatable, not one like the other."""
    with running_server(engine={}) as server:
        server.call(lambda runtime: server.world.add("seeded", parameters={"seed": 42}, capabilities=("completion",)))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            for fields in ({"model": "seeded"}, {"model": MODEL, "seed": 7}, {"model": "seeded", "seed": 7}):
                said = [[choice.message.content for choice in chat(client, n=n, **fields).choices] for n in (3, 3, 1)]
                assert len(set(said[0])) == 3
                assert said[0] == said[1]
                assert said[0][:1] == said[2]
                texts = client.completions.create(prompt="tell", n=3, **fields).choices
                assert len({choice.text for choice in texts}) == 3


def test_logprobs_and_bias(client: openai.OpenAI) -> None:
    """Each token has its alternatives; a bias changes what comes."""
    [choice] = chat(client, logprobs=True, top_logprobs=2).choices
    entries = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == ANSWER
    assert all(len(entry.top_logprobs) == 2 for entry in entries[:-1])
    first = chat(client, max_tokens=1, stream=True, logprobs=True, logit_bias={"quick": 200})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in first) != "the"


def test_structured_output(client: openai.OpenAI) -> None:
    """The client's own helper gets an object of its class."""

    class Verdict(BaseModel):
        ok: bool

    parsed = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Verdict, seed=3)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    json.loads(chat(client, response_format={"type": "json_object"}, max_tokens=40).choices[0].message.content)


def test_tools_are_called(caller: openai.OpenAI) -> None:
    """Three rounds with a tool that is really called, streaming and not; one call at a time if that is wanted."""
    messages = list(HELLO)
    for _ in range(3):
        [choice] = chat(caller, model="caller", messages=messages, tools=[TOOL]).choices
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}] * 2
        messages.append(choice.message)
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    [choice] = chat(caller, model="caller", tools=[TOOL], parallel_tool_calls=False).choices
    assert len(choice.message.tool_calls) == 1
    with caller.chat.completions.stream(model="caller", messages=messages, tools=[TOOL]) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert [call.function.name for call in final.message.tool_calls or ()] == ["weather"] * 2
    forced = {"type": "function", "function": {"name": "weather"}}
    [choice] = chat(caller, model="caller", tools=[TOOL], tool_choice=forced).choices
    assert json.loads(choice.message.tool_calls[0].function.arguments)["city"] in ("Paris", "Bonn")
    [choice] = chat(caller, model="caller", tools=[TOOL], tool_choice="none").choices
    assert choice.message.tool_calls is None


def test_arguments_are_streamed(caller: openai.OpenAI) -> None:
    """They come in pieces as they are written. Cut off by the limit, they end there; a call that breaks is an error."""
    for limit in (70, 400):
        said: list[Any] = []
        for chunk in chat(caller, model="caller", tools=[TOOL], stream=True, max_tokens=limit):
            said += chunk.choices[0].delta.tool_calls or ()
            reason = chunk.choices[0].finish_reason
        texts = ["".join(one.function.arguments for one in said if one.index == index) for index in (0, 1)]
        assert [(bool(one.id), one.type, one.function.name) for one in said if one.id] == [
            (True, "function", "weather") for text in texts if text
        ]
        whole = json.dumps({"city": "Paris"})
        assert all(whole.startswith(text) for text in texts)
        assert reason == ("tool_calls" if texts == [whole, whole] else "length")
    assert reason == "tool_calls"
    with pytest.raises(openai.APIError, match="call of 'weather' cannot be completed"):
        list(chat(caller, model="caller", tools=[TOOL], stream=True, stop=["is"]))


def test_thinking() -> None:
    """Thinking is apart from the answer, and its tokens are counted; `reasoning_effort` switches it off."""
    with running_server(engine={"answer": "<think>\nhm hm\n</think>\n\nyes"}) as server:
        server.call(lambda runtime: server.world.add("thinker", data=THINKER))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = chat(client, model="thinker")
            assert (whole.choices[0].message.reasoning, whole.choices[0].message.content) == ("hm hm\n", "yes")
            usage = whole.usage
            assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
            off = chat(client, model="thinker", reasoning_effort="none")
            assert off.choices[0].message.content.startswith("<think>")
            with pytest.raises(openai.BadRequestError, match="invalid reasoning value"):
                chat(client, model="thinker", reasoning_effort="some")


def test_what_has_no_effect_is_named(client: openai.OpenAI) -> None:
    """Fields that nothing uses, and options that the engine does not have, stand in a header and in the answer."""
    extra = {"wish": 1, "options": {"mirostat": 2, "nonsense": 3}}
    response = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, user="me", service_tier="auto", extra_body=extra
    )
    named = set(response.headers["x-corral-ignored"].split(", "))
    assert named == {"user", "service_tier", "wish", "mirostat", "nonsense"}
    assert set((response.parse().model_extra or {})["corral"]["ignored"]) == named
    plain = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert "x-corral-ignored" not in plain.headers


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": []}, r"\[\] is too short - 'messages'"),
        ({"messages": [{"role": "user", "content": None}]}, "invalid message content type: <nil>"),
        ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "invalid message format"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]},
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "invalid image input",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "invalid tool call arguments",
        ),
        ({"stop": [1]}, "invalid type for 'stop' field"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, 'the type "custom" is not supported'),
        ({"tool_choice": "maybe"}, "invalid tool_choice"),
        ({"response_format": {"type": "poem"}}, 'the type "poem" is not supported'),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "json_schema has no schema"),
        ({"modalities": ["audio"]}, '"audio" is not supported'),
        ({"top_logprobs": 30, "logprobs": True}, "top_logprobs must be between 0 and 20"),
        ({"temperature": "hot"}, "cannot unmarshal string"),
    ],
)
def test_what_is_refused(client: openai.OpenAI, fields: dict[str, Any], text: str) -> None:
    """A bad field is 400 in the client's own error class, with a text that names it."""
    with pytest.raises(openai.BadRequestError, match=text) as caught:
        chat(client, **fields)
    assert caught.value.type == "invalid_request_error"


def test_errors(client: openai.OpenAI) -> None:
    """Unknown models, paths and methods have OpenAI's envelope."""
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found") as caught:
        chat(client, model="nobody")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "not_found_error",
    )
    unknown = httpx.get(f"{client.base_url}nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    assert httpx.delete(f"{client.base_url}chat/completions").json()["error"]["type"] == "invalid_request_error"


def test_an_error_in_a_stream() -> None:
    """It arrives as an event that the client raises, and the stream ends."""
    with (
        running_server(engine={"answer": ANSWER, "fail_after": 4}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = chat(client, stream=True)
        with pytest.raises(openai.APIError, match="configured to fail"):
            list(stream)
        assert server.active() == 0


def test_models(client: openai.OpenAI) -> None:
    """Models are listed and found by name."""
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by == "library"
    assert client.models.retrieve("library/smol:q4").id == "library/smol:q4"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_a_system_message_of_a_developer(shared_server: Any) -> None:
    """The role ``developer`` takes the place of the model's own system message; parts are paragraphs."""
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        *HELLO,
    ]
    shared_server.call(lambda runtime: shared_server.world.add("own", data=WEIGHTS, system="You are other."))
    body = {"model": "own", "messages": messages, "_debug_render_only": True}
    assert "other" not in httpx.post(f"{shared_server.url}/v1/chat/completions", json=body).text


def test_messages_of_older_clients() -> None:
    """A `function_call` is a call without an id, and the role ``function`` tells its result."""
    [called, result] = read_messages(
        [
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "weather", "arguments": '{"city": "Bonn"}'},
            },
            {"role": "function", "name": "weather", "content": "sunny"},
        ]
    )
    assert [(call.name, call.arguments) for call in called.tool_calls] == [("weather", {"city": "Bonn"})]
    assert (result.role, result.tool_name, result.content) == ("tool", "weather", "sunny")
    with pytest.raises(ApiError, match="function_call has no function with a name"):
        read_messages([{"role": "assistant", "function_call": {"arguments": "{}"}}])
