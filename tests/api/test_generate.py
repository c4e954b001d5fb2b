"""``POST /api/generate`` and ``/api/chat``: framing, chunks, metrics, loading and unloading."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from corral.core.generation.rendering import FormatInThreads
from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.requests import ChatRequest

MODEL = "smol:q4"
ANSWER = "the quick answer is: no"


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def chat_of(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def test_generate_streams_lines(client: httpx.Client) -> None:
    """A stream is ndjson: chunks of text, then one line that is done and carries the metrics."""
    response = client.post("/api/generate", json={"model": MODEL, "prompt": "hello"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    *chunks, last = lines(response)
    assert len(chunks) > 1
    assert "".join(chunk["response"] for chunk in chunks) == ANSWER
    assert all(set(chunk) == {"model", "created_at", "response", "done"} and not chunk["done"] for chunk in chunks)
    assert all(chunk["model"] == MODEL and chunk["created_at"].endswith("Z") for chunk in chunks)
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")
    assert last["total_duration"] > 0
    assert last["prompt_eval_count"] > 0
    assert last["eval_count"] >= len(chunks)
    assert len(last["context"]) == last["prompt_eval_count"] + last["eval_count"]


def test_generate_answers_at_once(client: httpx.Client) -> None:
    """Without streaming one object holds the whole answer and the metrics."""
    response = client.post("/api/generate", json={"model": MODEL, "prompt": "hello", "stream": False})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    reply = response.json()
    assert (reply["response"], reply["done"], reply["done_reason"]) == (ANSWER, True, "stop")
    assert isinstance(reply["eval_duration"], int)


@pytest.mark.parametrize("stream", [True, False])
def test_keys_come_in_ollama_s_order(client: httpx.Client, stream: bool) -> None:
    """In the last or only object, the text comes before the reason for the end, and the metrics after it."""
    start, end = ["model", "created_at"], ["total_duration", "load_duration", "prompt_eval_count"]
    end += ["prompt_eval_duration", "eval_count", "eval_duration"]
    reply = client.post("/api/generate", json={"model": MODEL, "prompt": "one two", "stream": stream})
    generated = [key for key in json.loads(reply.text.splitlines()[-1]) if key != "cached_tokens"]
    assert generated == [*start, "response", "done", "done_reason", "context", *end]
    reply = client.post("/api/chat", json=chat_of("one two", stream=stream))
    chatted = [key for key in json.loads(reply.text.splitlines()[-1]) if key != "cached_tokens"]
    assert chatted == [*start, "message", "done", "done_reason", *end]


def test_raw_has_no_context(client: httpx.Client) -> None:
    """A raw prompt is used as it is, and the last line of its answer has no context."""
    reply = client.post("/api/generate", json={"model": MODEL, "prompt": "x", "raw": True, "stream": False}).json()
    assert reply["response"] == ANSWER
    assert "context" not in reply


def test_chat_streams_lines(client: httpx.Client) -> None:
    """A chat's chunks are assistant messages; the last line has no context."""
    *chunks, last = lines(client.post("/api/chat", json=chat_of("hello")))
    assert "".join(chunk["message"]["content"] for chunk in chunks) == ANSWER
    assert all(chunk["message"]["role"] == "assistant" for chunk in chunks)
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert "context" not in last


def test_chat_answers_at_once(client: httpx.Client) -> None:
    """Without streaming, the message comes in one piece."""
    reply = client.post("/api/chat", json=chat_of("hello", stream=False)).json()
    assert reply["message"] == {"role": "assistant", "content": ANSWER}


def test_an_answer_cut_short_says_length(client: httpx.Client) -> None:
    """num_predict ends an answer with ``length``."""
    reply = client.post("/api/chat", json=chat_of("x", stream=False, options={"num_predict": 2})).json()
    assert (reply["done_reason"], reply["eval_count"]) == ("length", 2)


@pytest.mark.parametrize("stop", ["quick", ["quick"]])
def test_stop_may_be_a_text_or_a_list(client: httpx.Client, stop: Any) -> None:
    """Both forms of `stop` end the answer before the text."""
    reply = client.post(
        "/api/generate", json={"model": MODEL, "prompt": "x", "stream": False, "options": {"stop": stop}}
    )
    assert reply.json()["response"] == "the "


def test_logprobs_are_told_with_alternatives(client: httpx.Client) -> None:
    """Each token comes with its bytes, its log-probability, and the requested number of alternatives."""
    body = {"model": MODEL, "prompt": "x", "stream": False, "logprobs": True, "top_logprobs": 2}
    entries = client.post("/api/generate", json=body).json()["logprobs"]
    assert entries[0]["token"].encode() == bytes(entries[0]["bytes"])
    assert entries[0]["logprob"] <= 0
    assert len(entries[0]["top_logprobs"]) == 2
    plain = client.post("/api/chat", json=chat_of("x", stream=False, logprobs=True)).json()["logprobs"]
    assert "top_logprobs" not in plain[0]
    streamed = lines(client.post("/api/chat", json=chat_of("x", logprobs=True)))
    assert streamed[0]["logprobs"][0]["logprob"] <= 0


@pytest.mark.parametrize("count", [-1, 21])
def test_top_logprobs_have_bounds(client: httpx.Client, count: int) -> None:
    """More than twenty alternatives are refused before anything else is looked at."""
    response = client.post("/api/generate", json={"model": "", "top_logprobs": count})
    assert response.status_code == 400
    assert response.json() == {"error": "top_logprobs must be between 0 and 20"}


def test_an_empty_prompt_loads_and_unloads(client: httpx.Client) -> None:
    """A request without a prompt loads the model, or unloads it if keep_alive is 0; the answer is one object either
    way."""
    loaded = client.post("/api/generate", json={"model": MODEL})
    assert loaded.headers["content-type"] == "application/json; charset=utf-8"
    reply = loaded.json()
    assert reply.pop("created_at")
    assert reply == {"model": MODEL, "response": "", "done": True, "done_reason": "load"}
    assert [model["name"] for model in client.get("/api/ps").json()["models"]] == [MODEL]
    reply = client.post("/api/generate", json={"model": MODEL, "keep_alive": 0}).json()
    assert (reply["done"], reply["done_reason"]) == (True, "unload")
    assert client.get("/api/ps").json() == {"models": []}
    again = client.post("/api/generate", json={"model": MODEL, "keep_alive": "0s"}).json()
    assert again["done_reason"] == "unload"


def test_no_messages_load_and_unload(client: httpx.Client) -> None:
    """The same holds for a chat without messages."""
    reply = client.post("/api/chat", json={"model": MODEL, "messages": []}).json()
    assert reply.pop("created_at")
    message = {"role": "assistant", "content": ""}
    assert reply == {"model": MODEL, "message": message, "done": True, "done_reason": "load"}
    reply = client.post("/api/chat", json={"model": MODEL, "keep_alive": 0}).json()
    assert (reply["message"], reply["done_reason"]) == (message, "unload")


@pytest.mark.parametrize(
    ("path", "fields", "task"), [("/api/generate", {}, "generate"), ("/api/chat", {"messages": []}, "chat")]
)
def test_a_model_for_embeddings_is_not_loaded_to_generate(
    client: httpx.Client, path: str, fields: dict[str, Any], task: str
) -> None:
    """These routes refuse to load it, with Ollama's text; unloading works as usual."""
    response = client.post(path, json={"model": "embedder", **fields})
    assert (response.status_code, response.json()) == (400, {"error": f'"embedder" does not support {task}'})
    assert "embedder:latest" not in [model["name"] for model in client.get("/api/ps").json()["models"]]
    assert client.post(path, json={"model": "embedder", "keep_alive": 0, **fields}).json()["done_reason"] == "unload"


@pytest.mark.parametrize(
    ("keep_alive", "text"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("soon", 'time: invalid duration "soon"'),
        (True, "Unsupported type: 'bool'"),
    ],
)
def test_bad_keep_alive_is_told_as_go_does(client: httpx.Client, keep_alive: Any, text: str) -> None:
    """A keep_alive that is not a duration is 400 with Go's text."""
    response = client.post("/api/chat", json=chat_of("x", keep_alive=keep_alive))
    assert (response.status_code, response.json()) == (400, {"error": text})


@pytest.mark.parametrize("keep_alive", [60, 0.5, "10m", "1h30m", -1, "-1m", None])
def test_keep_alive_may_be_a_number_or_a_duration(client: httpx.Client, keep_alive: Any) -> None:
    """Seconds and Go durations are accepted; negative means forever."""
    reply = client.post("/api/chat", json=chat_of("x", keep_alive=keep_alive, stream=False))
    assert reply.status_code == 200


@pytest.mark.parametrize("field", ["template", "suffix", "system", "context"])
def test_generate_accepts_empty_fields(client: httpx.Client, field: str) -> None:
    """Many clients send them."""
    body = {"model": MODEL, "prompt": "x", "stream": False, field: [] if field == "context" else ""}
    assert client.post("/api/generate", json=body).status_code == 200


def test_chat_accepts_empty_fields(client: httpx.Client) -> None:
    """Many clients send them."""
    body = chat_of("x", stream=False, format="", tools=[], think=False)
    body["messages"][0] |= {"images": None, "tool_calls": []}
    assert client.post("/api/chat", json=body).status_code == 200


@pytest.mark.parametrize("route", ["/api/generate", "/api/chat"])
def test_images_are_refused_by_name(client: httpx.Client, route: str) -> None:
    """A model without vision says so; invalid base64 is refused in Go's words; an empty list of images is accepted."""

    def answer(images: list[str] | None) -> httpx.Response:
        if route == "/api/generate":
            return client.post(route, json={"model": MODEL, "prompt": "x", "stream": False, "images": images})
        body = chat_of("x", stream=False)
        body["messages"][0]["images"] = images
        return client.post(route, json=body)

    for images, error in (
        (["aGk="], f'"{MODEL}" does not support images'),
        (["aGk=", "a*Gk"], "illegal base64 data at input byte 1"),
        (["aG\r\nk=\n"], f'"{MODEL}" does not support images'),
        (["aGk"], "illegal base64 data at input byte 0"),
        (["aGkhaG"], "illegal base64 data at input byte 4"),
        (["=Gk="], "illegal base64 data at input byte 0"),
        (["aG="], "illegal base64 data at input byte 3"),
        (["aG=k"], "illegal base64 data at input byte 2"),
        (["aGk=a"], "illegal base64 data at input byte 4"),
        (["aGk= "], "illegal base64 data at input byte 4"),
        (["data:image/png;base64,aGk="], "illegal base64 data at input byte 4"),
        (["aGk!" * 400_000], "illegal base64 data at input byte 3"),
    ):
        response = answer(images)
        assert response.status_code == 400
        assert response.json()["error"].startswith(error)
    assert answer(None).status_code == answer([]).status_code == 200


_THINK = '"high", "medium", "low", "max", true, or false'


@pytest.mark.parametrize(
    ("think", "text"),
    [
        ("very", f'invalid think value: "very" (must be {_THINK})'),
        ('a"b', f'invalid think value: "a\\"b" (must be {_THINK})'),
        ("", f'invalid think value: "" (must be {_THINK})'),
        (3, f"think must be a boolean or string ({_THINK})"),
        (0, f"think must be a boolean or string ({_THINK})"),
        ({}, f"think must be a boolean or string ({_THINK})"),
    ],
)
def test_bad_think_values_are_told(client: httpx.Client, think: Any, text: str) -> None:
    """Before the model is looked for, as when Ollama decodes the body."""
    response = client.post("/api/chat", json={**chat_of("x", think=think), "model": "nope"})
    assert (response.status_code, response.json()) == (400, {"error": text})


@pytest.mark.parametrize("think", [True, "low", "max"])
@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/api/generate", {"prompt": "x"}),
        ("/api/generate", {"prompt": "x", "raw": True}),
        ("/api/generate", {}),
        ("/api/generate", {"prompt": "x", "options": {"top_k": "many"}}),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
        ("/api/chat", {"messages": []}),
    ],
)
def test_a_model_that_cannot_think_says_so(
    client: httpx.Client, route: str, fields: dict[str, Any], think: bool | str
) -> None:
    """Before anything is loaded, and before its options are read; the name is the one that was typed."""
    for name in (MODEL, "embedder"):
        response = client.post(route, json={"model": name, "think": think, **fields})
        assert (response.status_code, response.json()) == (400, {"error": f'"{name}" does not support thinking'})
    assert client.post(route, json={"model": MODEL, "think": think, "keep_alive": 0}).json()["done_reason"] == "unload"


def test_raw_refuses_a_system_prompt(client: httpx.Client) -> None:
    """Raw mode does not accept one; a request that only unloads is not checked that closely."""
    unload = {"model": MODEL, "raw": True, "system": "s", "keep_alive": 0}
    assert client.post("/api/generate", json=unload).json()["done_reason"] == "unload"
    response = client.post("/api/generate", json={"model": MODEL, "prompt": "x", "raw": True, "system": "s"})
    assert response.status_code == 400
    assert response.json() == {"error": "raw mode does not support template, system, or context"}


def test_a_mistyped_option_is_500(client: httpx.Client) -> None:
    """Ollama reads options when it schedules; its status and text are kept."""
    response = client.post("/api/chat", json=chat_of("x", options={"top_k": "many"}))
    assert (response.status_code, response.json()) == (500, {"error": 'option "top_k" must be of type integer'})


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_beyond_the_context_is_400(client: httpx.Client, stream: bool) -> None:
    """A prompt longer than num_ctx that must not be cut is an error with its own status, streamed or not."""
    body = chat_of("word " * 50, stream=stream, truncate=False, options={"num_ctx": 16})
    response = client.post("/api/chat", json=body)
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["error"].startswith("the prompt is longer than the context length currently available")


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_far_too_long_is_refused_before_it_is_rendered(
    start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """A text that cannot fit because of its size alone never reaches the template; a shorter one does."""
    rendered: list[int] = []
    render = FormatInThreads.render

    async def counted(chat_format: FormatInThreads, request: ChatRequest, control: ControlTokens) -> RenderedChat:
        rendered.append(len(request.messages))
        return await render(chat_format, request, control)

    monkeypatch.setattr(FormatInThreads, "render", counted)
    body = chat_of("word " * 400_000, stream=stream, truncate=False, options={"num_ctx": 16})
    with start_server({"longest_token_bytes": 20}) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        response = client.post("/api/chat", json=body)
        assert response.status_code == 400
        assert response.json()["error"].startswith("the prompt is longer than the context length currently available")
        assert rendered == []
        assert client.post("/api/chat", json=chat_of("x", stream=stream)).status_code == 200
        assert rendered == [1]
