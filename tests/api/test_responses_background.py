"""Responses that go on after their clients have left, and from what was cut: their turn, their memory, their end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import openai
import pytest

from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.spec import SPEC
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import LoadRequest
from tests.api.conftest import LiveServer, running_server
from tests.api.scripted_engine import Script, ScriptedEngine
from tests.api.test_openai_responses import TOOL, connected
from tests.api.test_responses_search import WEIGHTS
from tests.api.test_tools import CALL

MODEL = "scripted"
BREAKS = "a\u2028b\u0085c"


class _Engine(ScriptedEngine):
    def script(self, prompt: str) -> Script:
        if "endless" in prompt:
            return Script([b"word "] * 6000)
        data = (BREAKS if "breaks" in prompt else "Fine." if "go on" in prompt else CALL).encode()
        return Script([data[at : at + 4] for at in range(0, len(data), 4)])


def load(request: LoadRequest, on_progress: OnLoadProgress) -> _Engine:
    return _Engine(msgspec.convert(request.load_options, FakeLoadOptions))


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    spec = msgspec.structs.replace(SPEC, load=f"{__name__}:load", runners=("thread",))
    with running_server(engine={"step_delay_s": 0.005}, engines=(spec,)) as server:
        server.call(lambda runtime: server.world.add(MODEL, data=WEIGHTS))
        yield server


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with connected(server) as client:
        yield client


def respond(client: openai.OpenAI, input: str, **fields: Any) -> Any:
    return client.responses.create(**{"model": MODEL, "input": input, **fields})


def test_a_response_cut_inside_a_call_goes_on(client: openai.OpenAI) -> None:
    """By its id, and with its items sent back: the model reads how far the call had come."""
    *_, last = respond(client, "hi", tools=[TOOL], max_output_tokens=len(CALL) // 4 - 6, stream=True)
    cut = last.response
    [call] = cut.output
    assert (cut.status, call.type, call.status) == ("incomplete", "function_call", "incomplete")
    assert call.arguments in '{"city": "Paris"}'
    assert respond(client, "go on", previous_response_id=cut.id).output_text == "Fine."
    sent_back: Any = [{"role": "user", "content": "hi"}, call, {"role": "user", "content": "go on"}]
    assert respond(client, sent_back).output_text == "Fine."


def test_an_ended_response_as_events(server: LiveServer, client: openai.OpenAI) -> None:
    """What clients take for a line break is escaped in its events, as in those of one that runs."""
    ended = respond(client, "breaks")
    assert ended.output_text == BREAKS
    events = httpx.get(f"{server.url}/v1/responses/{ended.id}", params={"stream": "true"}).content
    assert b"\\u2028" in events
    assert BREAKS[1].encode() not in events
    assert BREAKS[3].encode() not in events
    [event] = client.responses.retrieve(ended.id, stream=True)
    assert getattr(event, "response").output_text == BREAKS
