"""Models behind other servers, through the whole HTTP API: one Corral before another, and before scripted servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import ollama
import pytest

from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.upstream.spec import SPEC as UPSTREAM
from corral.core.models.names import parse_name
from corral.plugins.testing.scripted_server import ScriptedReply, ScriptedServer

MODEL, ANSWER = "smol:q4", "the quick answer is: no"
QUESTION = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": {"type": "object"}},
}


def add(server: Any, name: str, *hosts: str, **how: Any) -> None:
    server.call(lambda runtime: runtime.catalog.add_upstream(parse_name(name), hosts, **how))


def in_front(start_server: Any) -> Any:
    """A Corral that runs models behind other servers."""
    return start_server(engines=(FAKE, UPSTREAM))


@contextmanager
def pair(start_server: Any, **engine: Any) -> Iterator[tuple[Any, Any, httpx.Client]]:
    """A Corral that runs models on the fake engine, another one in front of it, and a client of the latter."""
    with start_server(engine=engine or None) as behind, in_front(start_server) as front:
        add(front, "far", behind.url, model=MODEL)
        with httpx.Client(base_url=front.url, timeout=60) as client:
            yield behind, front, client


def stream(client: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    response = client.post(path, json={"model": "far", **body})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_one_corral_before_another(start_server: Callable[..., Any]) -> None:
    """Chats, prompts, raw prompts and vectors get the same answers and figures as from the upstream server."""
    with pair(start_server) as (behind, _, client), httpx.Client(base_url=behind.url) as direct:
        lines = stream(client, "/api/chat", messages=QUESTION, options={"seed": 1})
        assert "".join(line["message"]["content"] for line in lines) == ANSWER
        assert {line["remote_model"] for line in lines} == {MODEL}
        assert {line["remote_host"] for line in lines} == {behind.url}
        assert {line["model"] for line in lines} == {"far"}
        assert list(lines[0])[:4] == ["model", "remote_model", "remote_host", "created_at"]
        body = {"model": MODEL, "messages": QUESTION, "options": {"seed": 1}, "stream": False}
        near = direct.post("/api/chat", json=body).json()
        for name in ("eval_count", "prompt_eval_count", "done_reason"):
            assert lines[-1][name] == near[name]
        for raw in (False, True):
            whole = client.post(
                "/api/generate", json={"model": "far", "prompt": "x", "raw": raw, "stream": False}
            ).json()
            assert (whole["response"], whole["remote_host"]) == (ANSWER, behind.url)
            assert "context" not in whole
        options = {"num_gpu": 1, "num_ctx": 64}
        whole = client.post("/api/generate", json={"model": "far", "prompt": "x", "options": options, "stream": False})
        assert whole.json()["ignored_options"] == ["num_gpu"]
        vectors = client.post("/api/embed", json={"model": "far", "input": ["a", "b"]}).json()["embeddings"]
        assert vectors == direct.post("/api/embed", json={"model": MODEL, "input": ["a", "b"]}).json()["embeddings"]


def test_what_the_other_server_says_about_an_answer(start_server: Callable[..., Any]) -> None:
    """What it left out of a chat is in the last object here too; a prompt rendered there cannot be shown here."""
    with pair(start_server, answer="yes") as (_, _, client):
        turns = [{"role": ("user", "assistant")[place % 2], "content": f"turn {place} "} for place in range(41)]
        [*_, last] = stream(client, "/api/chat", messages=turns, options={"num_ctx": 32})
        assert last["truncated"] is True
        assert 0 < last["dropped_messages"] < 41
        shown = client.post("/api/chat", json={"model": "far", "messages": QUESTION, "_debug_render_only": True})
        assert (shown.status_code, "renders its chats itself" in shown.json()["error"]) == (400, True)


def test_it_is_an_ordinary_model(start_server: Callable[..., Any]) -> None:
    """It can be listed, shown, seen running, copied and deleted; it needs no memory, no slot for a loaded model and no
    timer.
    """
    with pair(start_server) as (behind, _, client):
        listed = {model["name"]: model for model in client.get("/api/tags").json()["models"]}["far:latest"]
        shown = client.post("/api/show", json={"model": "far"}).json()
        for found in (listed, shown):
            assert (found["remote_model"], found["remote_host"]) == (MODEL, behind.url)
            assert "completion" in found["capabilities"]
        assert client.post("/api/copy", json={"source": "far", "destination": "copy"}).status_code == 200
        for name in ("far", "copy", MODEL):
            stream(client, "/api/chat", model=name, messages=QUESTION, keep_alive="1s")
        running = client.get("/api/ps").json()["models"]
        far = next(model for model in running if model["name"] == "far:latest")
        assert len(running) == 2  # the copy is the same model
        assert (far["size"], far["corral"]["runner"], far["corral"]["engine"]) == (0, "event_loop", "upstream")
        assert far["corral"]["details"]["remote host"] == behind.url
        assert int(far["expires_at"][:4]) > 2200
        assert client.request("DELETE", "/api/delete", json={"model": "far"}).status_code == 200
        assert [model["name"] for model in client.get("/api/ps").json()["models"]] == [MODEL]
        assert "".join(
            line["message"]["content"] for line in stream(client, "/api/chat", model="copy", messages=QUESTION)
        )


def test_it_is_loaded_and_unloaded(start_server: Callable[..., Any]) -> None:
    """A request without a prompt connects to the server; one with `keep_alive` 0 disconnects."""
    with pair(start_server) as (_, _, client):
        assert client.post("/api/generate", json={"model": "far"}).json()["done_reason"] == "load"
        assert len(client.get("/api/ps").json()["models"]) == 1
        assert client.post("/api/chat", json={"model": "far", "keep_alive": 0}).json()["done_reason"] == "unload"
        assert client.get("/api/ps").json()["models"] == []


def test_a_client_that_leaves(start_server: Callable[..., Any], within: Callable[..., bool]) -> None:
    """Its request ends on both servers."""
    with pair(start_server, step_delay_s=0.01) as (behind, front, client):
        body = {"model": "far", "messages": QUESTION, "options": {"ignore_eos": True, "num_predict": 100_000}}
        with client.stream("POST", "/api/chat", json=body) as response:
            lines = response.iter_lines()
            assert "error" not in json.loads(next(lines))
            assert (front.active(), behind.active()) == (1, 1)
        assert within(30, lambda: front.active() == 0 and behind.active() == 0)


def test_tools_and_thinking(start_server: Callable[..., Any]) -> None:
    """Tools and thinking pass in both directions, as Ollama's client sends and reads them."""
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    lines = [
        {"message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False},
        {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 5},
    ]
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    with ScriptedServer() as far, in_front(start_server) as front, ollama.Client(front.url) as client:
        far.replies |= {
            "/api/version": ScriptedReply(body={"version": "0.33.0"}),
            "/api/tags": ScriptedReply(body={"models": [{"name": "m"}]}),
            "/api/show": ScriptedReply(body={"capabilities": ["completion", "tools", "thinking"]}),
            "/api/chat": ScriptedReply(pieces=pieces),
        }
        add(front, "far", far.url)
        assert client.show("far").capabilities == ["completion", "tools", "thinking"]
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        reply = client.chat("far", QUESTION, tools=[TOOL], think=True, format=schema)
        assert reply.message.thinking == "Hm."
        assert reply.message.tool_calls is not None
        assert dict(reply.message.tool_calls[0].function.arguments) == {"city": "Paris"}
        [body] = far.bodies("/api/chat")
        assert (body["think"], body["format"]) == (True, schema)
        assert body["tools"] == [TOOL]
        parts = list(client.chat("far", QUESTION, tools=[TOOL], think="low", stream=True))
        assert "".join(part.message.thinking or "" for part in parts) == "Hm."
        assert [call.function.name for part in parts for call in part.message.tool_calls or ()] == ["weather"]
        assert client.generate("far", "x", think=True).thinking == "Hm."


OPENAI_MODELS = {"data": [{"id": "m", "owned_by": "vllm"}]}


@pytest.mark.parametrize(
    ("reply", "status", "text"),
    [
        (ScriptedReply(status=401, body={"error": {"message": "no key"}}), 502, "refuses the key"),
        (ScriptedReply(status=404, body={"error": {"message": "gone"}}), 502, "has no model 'm'"),
        (
            ScriptedReply(status=400, body={"error": {"message": "maximum context length is 512 tokens"}}),
            400,
            "is longer than",
        ),
        (ScriptedReply(status=400, body={"error": {"message": "bad stop"}}), 400, "bad stop"),
        (ScriptedReply(status=503, body={"error": {"message": "loading"}}), 503, "is busy"),
        (ScriptedReply(breaks=True), 502, "closed the connection"),
    ],
)
def test_errors(start_server: Callable[..., Any], reply: ScriptedReply, status: int, text: str) -> None:
    """An upstream's errors get a status that tells a client what to do."""
    with ScriptedServer() as far, in_front(start_server) as front:
        far.replies |= {"/v1/models": ScriptedReply(body=OPENAI_MODELS), "/v1/chat/completions": reply}
        add(front, "far", far.url)
        for streamed in (False, True):
            body = {"model": "far", "messages": QUESTION, "stream": streamed}
            response = httpx.post(f"{front.url}/api/chat", json=body)
            assert response.status_code == status
            assert text in response.json()["error"]


def test_it_breaks_off_in_the_middle(start_server: Callable[..., Any]) -> None:
    """The last line is the error, and no line says that the answer is done."""
    piece = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    with ScriptedServer() as far, in_front(start_server) as front:
        far.replies |= {
            "/v1/models": ScriptedReply(body=OPENAI_MODELS),
            "/v1/chat/completions": ScriptedReply(pieces=[piece, piece], breaks=True),
        }
        add(front, "far", far.url)
        response = httpx.post(f"{front.url}/api/chat", json={"model": "far", "messages": QUESTION})
    *texts, last = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(line["message"]["content"] for line in texts) == "HiHi"
    assert "closed the connection in the middle of its answer" in last["error"]
    assert not any(line.get("done") for line in (*texts, last))


def test_an_address_that_changed(start_server: Callable[..., Any]) -> None:
    """A name that is given a new address leads there, and nothing is kept of the old one."""
    with pair(start_server) as (_, front, client), start_server(engine={"answer": "another one"}) as other:
        stream(client, "/api/chat", messages=QUESTION)
        add(front, "far", other.url, model=MODEL)
        lines = stream(client, "/api/chat", messages=QUESTION)
        assert "".join(line["message"]["content"] for line in lines) == "another one"
        [running] = client.get("/api/ps").json()["models"]
        assert running["corral"]["details"]["remote host"] == other.url


def test_an_upstream_that_is_this_very_server(start_server: Callable[..., Any]) -> None:
    """A model that leads back to its own server, directly or through another, ends in a clear error."""
    with in_front(start_server) as first, in_front(start_server) as second:
        add(first, "ring", second.url, model=MODEL)
        add(second, "ring", first.url, model="ring")
        add(first, "ring", second.url, model="ring")
        add(second, "mirror", first.url, model=MODEL)
        add(second, "mirror", second.url, model="mirror")
        for server, name in ((first, "ring"), (second, "mirror")):
            body = {"model": name, "messages": QUESTION, "stream": False}
            reply = httpx.post(f"{server.url}/api/chat", json=body, timeout=60)
            assert reply.status_code == 502
            assert "leads back to" in reply.json()["error"]
        assert not first.active() + second.active()


def test_a_forged_list_of_passed_servers(start_server: Callable[..., Any]) -> None:
    """Whatever a client writes into the header, requests are still answered."""
    with pair(start_server) as (_, _, client):
        for forged in (b"\xff, \xe9", b"a" * 32, b",".join([b"0" * 32] * 200)):
            reply = client.post(
                "/api/chat", json={"model": "far", "messages": QUESTION}, headers={b"X-Corral-Passed": forged}
            )
            assert reply.status_code == 200, reply.text
