"""Responses that go on after their clients have left, and from what was cut: their turn, their memory, their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import msgspec
import openai
import pytest

from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.spec import SPEC
from corral.api.http import body_memory
from corral.core.ports.authenticators import Credentials
from corral.core.ports.runners import OnLoadProgress
from corral.core.requests.principal import Principal, RequestLimits
from corral.core.specs.engines import LoadRequest
from tests.api.conftest import LiveServer, running_server
from tests.api.scripted_engine import Script, ScriptedEngine
from tests.api.test_openai_responses import TOOL, connected, retrieved
from tests.api.test_responses_search import WEIGHTS
from tests.api.test_tools import CALL

MODEL = "scripted"
BODY_BYTES = 1 << 20
BREAKS = "a\u2028b\u0085c"


class _Engine(ScriptedEngine):
    def script(self, prompt: str) -> Script:
        if "endless" in prompt:
            return Script([b"word "] * 6000)
        data = (BREAKS if "breaks" in prompt else "Fine." if "go on" in prompt else CALL).encode()
        return Script([data[at : at + 4] for at in range(0, len(data), 4)])


def load(request: LoadRequest, on_progress: OnLoadProgress) -> _Engine:
    return _Engine(msgspec.convert(request.load_options, FakeLoadOptions))


class _Keys:
    """Whoever has the key ``one`` may have one request at once."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        parallel = 1 if credentials.secret == "one" else None
        return Principal(name=credentials.secret or "none", limits=RequestLimits(parallel=parallel))


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    spec = msgspec.structs.replace(SPEC, load=f"{__name__}:load", runners=("thread",))
    options: Any = {"authenticator": _Keys(), "max_body_bytes": BODY_BYTES}
    with running_server(engine={"step_delay_s": 0.005}, engines=(spec,), **options) as server:
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
    [event] = retrieved(client, ended.id, stream=True)
    assert event.response.output_text == BREAKS


def test_a_limit_of_one_request(server: LiveServer, client: openai.OpenAI, within: Any) -> None:
    """One response in the background is begun, waits for its turn, and has the place of any other answer; asking for
    it, following and cancelling it needs none."""
    one = client.with_options(api_key="one")
    with respond(one, "endless", background=True, stream=True) as stream:
        id = next(iter(stream)).response.id
        assert within(30, lambda: retrieved(one, id).status == "in_progress")
        for ask in (respond, _chat):
            with pytest.raises(openai.RateLimitError, match="'one' may have 1 requests at once") as caught:
                ask(one, "go on")
            assert int(caught.value.response.headers["retry-after"]) > 0
        assert _chat(client, "go on") == "Fine."
        with ExitStack() as others:
            for _ in range(15):
                next(iter(others.enter_context(retrieved(one, id, stream=True))))
            with pytest.raises(openai.RateLimitError, match="followed by 16 requests already") as caught:
                retrieved(one, id, stream=True)
            assert int(caught.value.response.headers["retry-after"]) > 0
    with pytest.raises(openai.RateLimitError, match="in the background") as caught:
        respond(one, "go on", background=True)
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert one.responses.cancel(id).status == "cancelled"
    assert respond(one, "go on").output_text == "Fine."
    assert server.active() == 0


def test_what_it_was_made_from_takes_memory(
    server: LiveServer, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has ended, as the body of a request does until that is answered."""
    monkeypatch.setattr(body_memory, "_PATIENCE_S", 0.1)
    large = "endless " + "x" * (BODY_BYTES * 2 // 3)
    begun = respond(client, large, background=True, truncation="auto")
    with pytest.raises(openai.InternalServerError, match="other requests fill the memory"):
        respond(client, f"go on {large}", truncation="auto")
    client.responses.cancel(begun.id)
    assert respond(client, f"go on {large}", truncation="auto", max_output_tokens=1).status == "incomplete"
    assert server.active() == 0


def _chat(client: openai.OpenAI, text: str) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content
