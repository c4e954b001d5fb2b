"""The official libraries of OpenAI and Anthropic, unmodified: tools that are called, answers as objects, vectors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from tests.api.agent_server import AGENT, CITIES, LEARNT, agent_server

Within = Callable[[float, Callable[[], bool]], bool]

HELLO: Any = [{"role": "user", "content": "How is it there?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Verdict(BaseModel):
    """What is found out."""

    ok: bool
    grade: int


class Weather:
    """A tool that is really called."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, city: str) -> str:
        self.asked.append(city)
        return f"sunny in {city}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with agent_server() as server:
        yield server.url
        assert server.active() == 0


@pytest.fixture(scope="module")
def by_openai(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def by_anthropic(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_ids_of_requests(
    by_openai: openai.OpenAI, by_anthropic: anthropic.Anthropic, caplog: pytest.LogCaptureFixture, within: Within
) -> None:
    """What the libraries show of an answer and of an error is in the server's log."""
    caplog.set_level("INFO", "corral.http")
    ids = [
        by_openai.chat.completions.create(model=AGENT, messages=HELLO)._request_id,
        by_openai.models.list()._request_id,
    ]
    ids += [by_anthropic.messages.create(model=AGENT, max_tokens=9, messages=HELLO)._request_id]
    with pytest.raises(openai.NotFoundError) as missing:
        by_openai.models.retrieve("nobody")
    with pytest.raises(anthropic.NotFoundError) as unknown:
        by_anthropic.messages.create(model="nobody", max_tokens=9, messages=HELLO)
    ids += [missing.value.request_id, unknown.value.request_id]
    assert len(set(ids)) == 5
    assert within(30, lambda: {getattr(one, "http", {}).get("request_id") for one in caplog.records} >= set(ids))


@pytest.mark.parametrize("streamed", [False, True])
def test_rounds_of_tools_with_openai(by_openai: openai.OpenAI, streamed: bool) -> None:
    """Each call is made, its result goes back, and the next answer knows it, until there is nothing left to ask."""
    weather, messages = Weather(), list(HELLO)
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    for _ in range(len(CITIES) + 1):
        if streamed:
            with by_openai.chat.completions.stream(model=AGENT, messages=messages, tools=tools) as stream:
                message: Any = stream.get_final_completion().choices[0].message
        else:
            message = by_openai.chat.completions.create(model=AGENT, messages=messages, tools=tools).choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            said = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
    assert weather.asked == CITIES
    assert messages[-1].content == LEARNT


def test_rounds_of_tools_with_responses(by_openai: openai.OpenAI) -> None:
    """Each turn sends the results alone: the server knows what came before."""
    weather = Weather()
    tools: Any = [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}]
    answer = by_openai.responses.create(model=AGENT, input=HELLO, tools=tools)
    for _ in CITIES:
        results: Any = [
            {"type": "function_call_output", "call_id": item.call_id, "output": weather(**json.loads(item.arguments))}
            for item in answer.output
            if item.type == "function_call"
        ]
        answer = by_openai.responses.create(model=AGENT, input=results, tools=tools, previous_response_id=answer.id)
    assert weather.asked == CITIES
    assert answer.output_text == LEARNT


def test_objects_with_responses(by_openai: openai.OpenAI) -> None:
    """`parse` gives an object of the class, and so does the helper for streams."""
    asked: Any = {"model": AGENT, "input": HELLO, "text_format": Verdict, "extra_body": {"options": {"seed": 1}}}
    answer = by_openai.responses.parse(**asked)
    assert isinstance(answer.output_parsed, Verdict)
    with by_openai.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_parsed == answer.output_parsed


def test_objects_with_openai(by_openai: openai.OpenAI) -> None:
    """`parse` gives an object of the class, also of a tool's arguments, and in a stream."""
    answer = by_openai.chat.completions.parse(model=AGENT, messages=HELLO, response_format=Verdict, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Verdict)
    with by_openai.chat.completions.stream(model=AGENT, messages=HELLO, response_format=Verdict, seed=1) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed
    tool = openai.pydantic_function_tool(Verdict, name="judge")
    called = by_openai.chat.completions.parse(
        model=AGENT, messages=HELLO, tools=[tool], tool_choice="required", parallel_tool_calls=False, seed=1
    )
    [call] = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Verdict)


def test_vectors_with_openai(by_openai: openai.OpenAI) -> None:
    """The library asks for base64 by itself and unpacks it: the same numbers as without."""
    texts = ["one", "two three"]
    unpacked = by_openai.embeddings.create(model=AGENT, input=texts).data
    plain = by_openai.embeddings.create(model=AGENT, input=texts, encoding_format="float").data
    for one, other in zip(unpacked, plain, strict=True):
        assert struct.pack("<16f", *one.embedding) == struct.pack("<16f", *other.embedding)


@pytest.mark.parametrize("streamed", [False, True])
def test_rounds_of_tools_with_anthropic(by_anthropic: anthropic.Anthropic, streamed: bool) -> None:
    """As with OpenAI's library."""
    weather, messages = Weather(), list(HELLO)
    asked: Any = {"model": AGENT, "max_tokens": 500, "tools": [{"name": "weather", "input_schema": PARAMETERS}]}
    for _ in range(len(CITIES) + 1):
        if streamed:
            with by_anthropic.messages.stream(messages=messages, **asked) as stream:
                answer: Any = stream.get_final_message()
        else:
            answer = by_anthropic.messages.create(messages=messages, **asked)
        messages.append({"role": "assistant", "content": answer.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": weather(**block.input)}
            for block in answer.content
            if block.type == "tool_use"
        ]
        if results:
            messages.append({"role": "user", "content": results})
    assert weather.asked == CITIES
    assert [block.text for block in answer.content] == [LEARNT]


def test_the_tool_runner_of_anthropic(by_anthropic: anthropic.Anthropic) -> None:
    """The library's own loop around a decorated function comes to its end. It tries to keep the conversation on the
    server first, and sends it as a whole once it is told that it has to.
    """
    if not hasattr(by_anthropic.beta.messages, "tool_runner"):
        pytest.skip("this version of anthropic has no tool_runner")
    asked = Weather()

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: Where.
        """
        return asked(city)

    runner = by_anthropic.beta.messages.tool_runner(model=AGENT, max_tokens=500, messages=HELLO, tools=[weather])
    [block] = runner.until_done().content
    assert asked.asked == CITIES
    assert block.type == "text"
    assert block.text == LEARNT


def test_objects_with_anthropic(by_anthropic: anthropic.Anthropic) -> None:
    """`parse` gives an object of the class."""
    if not hasattr(by_anthropic.messages, "parse"):
        pytest.skip("this version of anthropic has no messages.parse")
    answer = by_anthropic.messages.parse(model=AGENT, max_tokens=500, messages=HELLO, output_format=Verdict)
    assert isinstance(answer.parsed_output, Verdict)
